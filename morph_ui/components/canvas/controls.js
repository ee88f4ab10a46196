// ---- what the buttons do
function colour(c) { layers[active].colour = c; refresh(); }
function remember(c) {
  if (FLOWERS.some(([f]) => f === c) || recent[0] === c) return;
  recent = [c, ...recent.filter(r => r !== c)].slice(0, 5);
  refresh();
}
function choose(t) { tool = t; surface.dataset.is = patch ? 'patch' : t; refresh(); }
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
  undo, redo, save, zoomin: () => zoom(1.3), zoomout: () => zoom(1 / 1.3), fit, fromphoto: fromPhoto,
  photo: () => q('.pick-photo').click(), open: () => q('.pick-file').click(),
  new: () => { if (patch) unfloat(); say(''); whole(() => { photo = null; for (const n of names) { layers[n].c.g.clearRect(0, 0, W, H); touch(layers[n], false); } }); },
  live: () => { if (live) return still(); live = true; refresh(); tell(); },
};
for (const b of all('[data-act]')) b.addEventListener('click', () => { if (!stroke) acts[b.dataset.act](); });
for (const b of all('[data-tool]')) b.addEventListener('click', () => choose(b.dataset.tool));
for (const f of all('input[type=file]')) f.addEventListener('change', () => { take([...f.files]); f.value = ''; });
q('.size').addEventListener('input', e => { layers[active].size = +e.target.value; refresh(); });
q('.opacity').addEventListener('input', e => { layers[active].ink = +e.target.value; refresh(); });
q('.smoothing').addEventListener('input', e => { smoothing = Math.min(.9, +e.target.value); });
q('.tolerance').addEventListener('input', refresh);  q('.colour').addEventListener('input', e => colour(e.target.value));
q('.shape').addEventListener('change', e => { if (+e.target.value) shape(+e.target.value); });
function swatch(c, title) {
  const b = button('', title, '', () => colour(c));
  b.dataset.c = c; b.style.setProperty('--c', c);
  return b;
}
q('.recent').before(...FLOWERS.map(f => swatch(...f)));

// ---- the list of layers, the topmost first
const EYE = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2.5 12C6 5.5 18 5.5 21.5 12 18 18.5 6 18.5 2.5 12z"/><circle cx="12" cy="12" r="2.8"/></svg>';
const CROSS = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m7 7 10 10M17 7 7 17"/></svg>';
function range(title, low, value, input, change) {
  const r = Object.assign(document.createElement('input'), { type: 'range', min: low, max: 1, step: .01, title, ariaLabel: title });
  r.value = value;
  r.addEventListener('input', () => { input(+r.value); paint(); }); r.addEventListener('change', change);
  return r;
}
for (const n of ['mask', 'sketch', 'strokes'].filter(n => layers[n])) {
  const layer = layers[n], row = layer.row = Object.assign(document.createElement('div'), { className: 'layer' });
  row.dataset.layer = n;
  const eye = button('icon eye', `Show ${LABEL[n]}`, EYE, () => { layer.visible = !layer.visible; refresh(); paint(); tell(); });
  const name = button('name', `Draw on ${LABEL[n]}`, LABEL[n], () => { active = n; refresh(); });
  const clear = button('icon clear', `Clear ${LABEL[n]}`, CROSS, () => { if (!stroke && edit(layer, 0, 0, W, H, g => g.clearRect(0, 0, W, H))) { layer.inked = false; paint(); tell(); } });
  // A mask says how much may change by its own alpha: no opacity of the whole.
  if (n !== 'mask') layer.slider = range(`Opacity of ${LABEL[n]}`, 0, 1, v => { layer.opacity = v; soon(); }, tell);
  row.append(eye, name, layer.slider || '', clear);
  q('.layers').append(row);
}
const photoRow = Object.assign(document.createElement('div'), { className: 'layer photo' });
photoRow.append(Object.assign(button('name', 'Photograph', 'Photograph'), { disabled: true }),
  range('How strongly the photograph is shown', .05, 1, v => { dim = v; }, () => {}),
  button('icon clear', 'Remove the photograph', CROSS, () => { if (!stroke) whole(() => { photo = null; }); }));
q('.layers').append(photoRow);

function refresh() {
  if (over) circle(last);
  const layer = layers[active], draws = tool === 'brush' || tool === 'eraser', mask = active === 'mask';
  for (const b of all('[data-tool]')) b.setAttribute('aria-pressed', b.dataset.tool === tool);
  for (const l of Object.values(layers)) {
    l.row.classList.toggle('active', l === layer); l.row.querySelector('.name').setAttribute('aria-pressed', l === layer);
    l.row.querySelector('.eye').setAttribute('aria-pressed', l.visible);
    if (l.slider) l.slider.value = l.opacity;
  }
  q('.size').value = layer.size; q('.size').nextElementSibling.textContent = layer.size;
  q('.opacity').value = layer.ink; q('.opacity').nextElementSibling.textContent = `${Math.round(layer.ink * 100)}%`;
  q('.tolerance').nextElementSibling.textContent = q('.tolerance').value;
  q('.for-size').hidden = q('.for-smoothing').hidden = !draws;
  q('.for-opacity').hidden = !draws && tool !== 'fill'; q('.for-tolerance').hidden = tool !== 'fill';
  q('.colours').style.visibility = mask || tool === 'eraser' ? 'hidden' : '';
  if (!mask) q('.colour').value = layer.colour;
  const row = q('.recent');
  if (row.dataset.of !== recent.join()) { row.dataset.of = recent.join(); row.replaceChildren(...recent.map(c => swatch(c, c))); }
  for (const b of all('.colours button')) b.setAttribute('aria-pressed', b.dataset.c === layer.colour);
  q('[data-act=undo]').disabled = !past.length; q('[data-act=redo]').disabled = !future.length;
  q('[data-act=live]').hidden = !props.live; q('[data-act=live]').setAttribute('aria-pressed', live);
  photoRow.hidden = !photo;
  q('.from').hidden = !photo; q('[data-act=fromphoto]').disabled = !photo || asking;
  const ratio = W / H, fits = [...q('.shape').options].find(o => +o.value && Math.abs(+o.value / ratio - 1) < .01);
  q('.shape').value = fits ? fits.value : '';
  q('.hint').hidden = !!photo || !!stroke || names.some(n => !empty(layers[n]));
}

// ---- keys, paste and drop, only for the canvas that is seen
const KEYS = { b: 'brush', e: 'eraser', g: 'fill', i: 'pick', h: 'hand' };
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
  if (command || e.altKey || !here) return;
  if (patch && (key === 'enter' || key === 'escape') && !e.target.closest?.('button')) { e.preventDefault(); key === 'enter' ? settle() : unfloat(); }
  else if (key === ' ' && (e.target === surface || (over && !e.target.closest?.('button, input, select, summary')))) { e.preventDefault(); spaced = true; surface.dataset.is = 'hand'; circle(null); }
  else if (key === 'x' && layers.mask) { layers.mask.visible = !layers.mask.visible; refresh(); paint(); tell(); }
  else if (KEYS[key]) choose(KEYS[key]);
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
