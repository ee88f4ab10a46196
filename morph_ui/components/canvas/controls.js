// ---- what the buttons do
function colour(c) { layers[active].colour = c; refresh(); }
function remember(c) {
  if (FLOWERS.some(([f]) => f === c) || recent[0] === c) return;
  recent = [c, ...recent.filter(r => r !== c)].slice(0, 5);
  refresh();
}
let left = null;  // the layer that was drawn on when a part was to be chosen: what paints goes back there
function choose(t) {
  tool = t;
  if (left && !['select', 'lasso', 'hand'].includes(t)) { active = left; left = null; }
  if (t === 'select' && layers.mask) { if (active !== 'mask') left = active; active = 'mask'; setTimeout(() => { if (tool === 'select' && !falsified && !stroke && element.offsetParent) parts(); }, 50); }
  surface.dataset.is = patch ? 'patch' : t; refresh(); paint();
}
function shape(ratio) {
  whole(() => {
    const [w, h] = sides(ratio), old = names.map(n => [layers[n], layers[n].c]), [ow, oh] = [W, H];
    // Nothing that is drawn may fall outside: if it would, the drawing shrinks.
    const mx = Math.ceil((ow - w) / 2), my = Math.ceil((oh - h) / 2), out = (x, y) => x < mx || x >= ow - mx || y < my || y >= oh - my;
    const cut = old.some(([, c]) => c.g.getImageData(0, 0, ow, oh).data.some((v, i) => v && i % 4 === 3 && out((i >> 2) % ow, Math.floor(i / 4 / ow))));
    const k = cut ? Math.min(w / ow, h / oh) : 1;
    resize(w, h);
    const move = k === 1 ? Math.round : v => v;
    for (const [layer, c] of old) { layer.c.g.drawImage(c, move((w - ow * k) / 2), move((h - oh * k) / 2), ow * k, oh * k); touch(layer); }
  });
}
let asking = false;
async function fromPhoto() {
  const p = photo, [w, h] = [W, H];
  if (!p || asking) return;
  asking = true; refresh(); say('Drawing from the photograph …');
  try {
    const got = await server.from_photograph({ path: p.path, coarseness: +q('.coarse').value, kind: q('.kind').value, width: W, height: H });
    if (got.error) return say(got.error[0].toUpperCase() + got.error.slice(1) + '.');
    const drawn = {};
    for (const n of ['strokes', 'sketch']) if (layers[n]) drawn[n] = await decodeWhole(got[n]);
    if (W !== w || H !== h || photo !== p || stroke) return say('The drawing changed meanwhile; press it again.');
    whole(() => { for (const n in drawn) { const l = layers[n]; l.visible = true; l.c.g.clearRect(0, 0, W, H); l.c.g.drawImage(drawn[n], 0, 0, W, H); touch(l); } });
    say('');
  } catch (e) { say(`That did not work: ${(e && e.message) || e}`); } finally { asking = false; refresh(); }
}
const acts = {
  undo, redo, save, invert, less: () => reach(-1), more: () => reach(1), zoomin: () => zoom(1.3), zoomout: () => zoom(1 / 1.3), fit,
  photo: () => q('.pick-photo').click(), open: () => q('.pick-file').click(),
  new: () => { if (patch) unfloat(); say(''); whole(() => { photo = null; for (const n of names) { layers[n].c.g.clearRect(0, 0, W, H); touch(layers[n], false); } }); },
  live: () => { if (live) return still(); live = true; refresh(); tell(); },
};
for (const b of all('[data-act]')) b.addEventListener('click', () => { if (!stroke) { edgeDone(); acts[b.dataset.act]?.(); } });
for (const b of all('[data-tool]')) b.addEventListener('click', () => choose(b.dataset.tool));
for (const b of all('[data-mode]')) b.addEventListener('click', () => { mode = b.dataset.mode; refresh(); });
for (const f of all('input[type=file]')) f.addEventListener('change', () => { take([...f.files]); f.value = ''; });
q('.size').addEventListener('input', e => { layers[active].size = +e.target.value; refresh(); });
q('.opacity').addEventListener('input', e => { layers[active].ink = +e.target.value; refresh(); });
q('.smoothing').addEventListener('input', e => { smoothing = Math.min(.9, +e.target.value); });
q('.tolerance').addEventListener('input', refresh);  q('.colour').addEventListener('input', e => colour(e.target.value));
q('.shape').addEventListener('change', e => { if (+e.target.value) shape(+e.target.value); });

// ---- the keyboard's own pointer: arrows move a cross, Enter uses the tool there
let cross = null;
function uncross() { cross = null; q('.cross').hidden = true; }
function steer(key, far) {
  const [dx, dy] = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key], by = far ? 32 : 8;
  cross = cross ? { x: clamp(cross.x + by * dx, 0, W - 1), y: clamp(cross.y + by * dy, 0, H - 1) } : { x: W / 2, y: H / 2 };
  q('.cross').hidden = false; paint();
}
function useThere(e) {
  const b = surface.getBoundingClientRect(), { x, y } = cross, there = { pointerId: -1, pointerType: 'mouse', clientX: b.left + surface.clientLeft + view.x + x * view.k, clientY: b.top + surface.clientTop + view.y + y * view.k };
  if (tool === 'select') select(cross, how(e));
  else if (tool === 'fill') fill(cross, e.altKey);
  else if (tool === 'pick') pick(cross);
  else if (tool === 'brush' || tool === 'eraser') { begin(there, tool === 'eraser'); finish(); }
}

// ---- keys, paste and drop, only for the canvas that is seen
const KEYS = { b: 'brush', e: 'eraser', g: 'fill', l: 'lasso', s: 'select', i: 'pick', h: 'hand' };
const TOLD = [['B', 'brush'], ['E', 'eraser'], ['G', 'fill'], ['L', 'lasso'], ['S', 'select a part by a click, as mask'], ['I', 'pick a colour (Alt with the brush)'], ['H, or hold Space', 'move the view'],
  ['[ ]', 'brush smaller, larger'], ['Shift, Alt', 'add to the mask, take from it (select, lasso)'], [', .', 'less, more of what was selected'], ['Shift+I', 'invert the mask'], ['X', 'show or hide the mask'],
  ['Ctrl+Z, Ctrl+Shift+Z', 'undo, redo'], ['Ctrl+wheel', 'zoom'], ['Arrows, Enter', 'move a cross, use the tool there'], ['Enter, Escape', 'set a picture that floats, or drop it']];
window.chrysalisKeys ||= [];
if (!window.chrysalisKeys.some(k => k.where === 'Canvas')) window.chrysalisKeys.push({ where: 'Canvas', keys: TOLD });
const field = t => t?.closest?.('textarea, select, [contenteditable], input:not([type=range]):not([type=checkbox]):not([type=radio]):not([type=button]):not([type=file]):not([type=color])');
document.addEventListener('keydown', e => {
  if (!element.offsetParent || field(e.target) || e.isComposing) return;
  const here = over || e.target === document.body || element.contains(e.target);  // single letters belong to what has the focus
  const key = letter(e) || e.key.toLowerCase(), command = e.ctrlKey || e.metaKey;
  // Brackets are typed with AltGr or Option on many keyboards; where there are none, their places count.
  const plain = !command && !e.altKey, bracket = '[]'.includes(e.key) ? e.key : plain && { BracketLeft: '[', BracketRight: ']' }[e.code];
  if (bracket && here && (plain || e.altKey)) {
    const l = layers[active], by = Math.max(1, Math.round(l.size * .15));
    l.size = clamp(l.size + (bracket === ']' ? by : -by), 1, 128); e.preventDefault(); return refresh();
  }
  if (command && !e.altKey && (key === 'z' || key === 'y')) { e.preventDefault(); key === 'y' || e.shiftKey ? redo() : undo(); return; }
  if (command || (e.altKey && key !== 'enter') || !here) return;
  if (patch && (key === 'enter' || key === 'escape') && !e.target.closest?.('button')) { e.preventDefault(); key === 'enter' ? settle() : unfloat(); }
  else if (key === ' ' && (e.target === surface || (over && !e.target.closest?.('button, input, select, summary')))) { e.preventDefault(); spaced = true; surface.dataset.is = 'hand'; circle(null); }
  else if (key === 'escape' && act?.drop) { act.drop(); act = null; }
  else if (e.target === surface && /^arrow/.test(key)) { e.preventDefault(); steer(key, e.shiftKey); }
  else if (e.target === surface && key === 'enter' && cross && !patch) { e.preventDefault(); useThere(e); }
  else if (key === 'x' && layers.mask) { layers.mask.visible = !layers.mask.visible; refresh(); paint(); tell(); }
  else if ((e.key === ',' || e.key === '.') && tool === 'select') reach(e.key === ',' ? -1 : 1);
  else if (key === 'i' && e.shiftKey && layers.mask) invert();
  else if (KEYS[key] && (KEYS[key] !== 'select' || layers.mask)) choose(KEYS[key]);
});
const unspace = () => { if (spaced) { spaced = false; choose(tool); } };
document.addEventListener('keyup', e => { if (e.key === ' ') unspace(); });  window.addEventListener('blur', unspace);
document.addEventListener('paste', e => {
  const files = pasted(e);
  if (!files.length || !element.offsetParent || (field(e.target) && [...e.clipboardData.types].includes('text/plain'))) return;
  e.preventDefault(); take(files);
});
element.addEventListener('dragover', e => { e.preventDefault(); surface.classList.add('over'); });
element.addEventListener('dragleave', e => { if (!element.contains(e.relatedTarget)) surface.classList.remove('over'); });
element.addEventListener('drop', async e => {
  e.preventDefault(); surface.classList.remove('over');
  take(await dropped(e.dataTransfer).catch(() => []), NO_FILE);
});

choose('brush'); fit();
for (const f of all('input[type=file]')) if (f.accept) f.accept = PICTURES;
if (falsified && !window.chrysalisFalsified) window.chrysalisFalsified = q('.altered').textContent
  = 'This browser alters what is read from a canvas, to guard against tracking. Allow it for this page, or fills, colours that are picked and results are noisy.';
element.dataset.ready = '1';
