// ---- a patch: a picture that floats until it is set into the colours
function box() { const w = patch.img.width * patch.k, h = patch.img.height * patch.k; return { x: patch.x - w / 2, y: patch.y - h / 2, w, h }; }
function float(img) {
  patch = { img, x: W / 2, y: H / 2, k: Math.min(W * .6 / img.width, H * .6 / img.height) };
  surface.dataset.is = 'patch'; surface.focus({ preventScroll: true }); paint();
  say('Drag it into place; a corner scales it.', [['✓ Set', settle, 'set'], ['× Drop', unfloat, 'drop']]);
}
function grasp(p) {
  const b = box(), r = 16 / view.k, corner = [b.x, b.x + b.w].some(x => Math.abs(p.x - x) < r) && [b.y, b.y + b.h].some(y => Math.abs(p.y - y) < r);
  if (corner) return { from: Math.hypot(p.x - patch.x, p.y - patch.y) || 1, k: patch.k };
  return p.x > b.x && p.x < b.x + b.w && p.y > b.y && p.y < b.y + b.h ? { dx: patch.x - p.x, dy: patch.y - p.y } : null;
}
function pull(grip, p) {
  if (grip.from) patch.k = clamp(grip.k * Math.hypot(p.x - patch.x, p.y - patch.y) / grip.from, .02, 20);
  else { patch.x = p.x + grip.dx; patch.y = p.y + grip.dy; }
  paint();
}
function settle() {
  if (!patch) return;
  const { x, y, w, h } = box(), layer = layers.strokes, img = patch.img;
  layer.visible = true;
  edit(layer, x, y, x + w, y + h, g => g.drawImage(img, x, y, w, h));
  unfloat(); tell();
}
function unfloat() { patch = act = null; choose(tool); say(''); refresh(); paint(); }

// ---- pictures in
const MOST = 1536;
function say(text, buttons = []) {
  line.textContent = text;
  for (const [label, act, name] of buttons) { const b = button('', label, label, act); b.dataset.say = name; line.append(b); }
}
async function decode(blob) {
  const map = await createImageBitmap(blob), k = Math.min(1, MOST / Math.max(map.width, map.height)), c = blank(Math.max(1, Math.round(map.width * k)), Math.max(1, Math.round(map.height * k)));
  c.g.drawImage(map, 0, 0, c.width, c.height); map.close();
  return c;
}
const fetched = async url => (await fetch(url)).blob();
const asFile = (blob, name) => new File([blob], name, { type: blob.type.startsWith('image/') ? blob.type : 'image/png' });
function camera(file, img) {
  const p = { img, file, path: '' };
  cover(p);
  const lost = e => { p.lost = true; if (photo === p) photo = null; say(`${file.name} could not be sent: ${e.message || e}`); };
  upload(file).then(got => { p.path = got.path; }, lost).then(() => { refresh(); paint(); if (photo === p || p.lost) tell(); });
  return p;
}
function underlay(file, img) {
  say('');
  whole(() => { if (bare()) resize(...sides(img.width / img.height)); photo = camera(file, img); });
}
async function take(file) {
  if (!file) return;
  if (FOREIGN.test(file.name)) return say(`${file.name} is a file of another program; save it there as PNG, JPEG or WebP, which can be opened here.`);
  if (patch) unfloat();
  let saved = null, img = null;
  try { saved = await inside(file); } catch { return say(`${file.name} was saved here, but its layers are broken.`); }
  if (saved) { try { return await reopen(saved); } catch { return say(`${file.name} was saved here, but its layers are broken.`); } }
  try { img = await decode(file); } catch { return say(`${file.name || 'That'} is no picture that can be opened; PNG, JPEG, WebP, GIF and AVIF can.`); }
  if (!file.type.startsWith('image/')) file = asFile(file, file.name || 'photograph.png');
  if (!photo) return underlay(file, img);
  say('A photograph is there already. Put this one in', [['as photograph', () => underlay(file, img), 'photo'], ['as patch on top', () => float(img), 'patch'], ['not at all', () => say(''), 'no']]);
}
// Layers and a photograph given as URLs or data URLs; what is not given is cleared. `about` tells sizes and looks, if they were saved.
let opening = 0;
async function load(given, about = null) {
  const turn = ++opening, got = {};
  for (const n of ORDER) if (given[n]) got[n] = await decodeWhole(given[n]);
  let file = null, img = null;
  if (given.photo) { const blob = await fetched(given.photo); file = asFile(blob, 'photograph.' + (blob.type.split('/')[1] || 'png')); img = await decode(blob); }
  if (turn !== opening) return;
  const first = got.sketch || got.strokes || got.mask || img;
  if (!first && !about) return;
  if (patch) unfloat();
  // No layer for lines here: they go on the colours.
  const to = n => layers[n] || (n === 'sketch' ? layers.strokes : null);
  whole(() => {
    photo = null;
    resize(...(about ? about.size : sides(first.width / first.height)));
    for (const n of names) { const l = about && about.looks[n]; layers[n].visible = l ? l.visible !== false : true; layers[n].opacity = l ? clamp(+l.opacity || 0, 0, 1) : 1; }
    for (const n of ORDER) {
      const l = to(n), was = about && about.looks[n];
      if (!got[n] || !l || (l.name !== n && was && was.visible === false)) continue;
      l.c.g.globalAlpha = l.name !== n && was ? clamp(+was.opacity || 0, 0, 1) : 1;
      l.c.g.drawImage(got[n], 0, 0, W, H); l.c.g.globalAlpha = 1; touch(l);
      if (n === 'mask') { l.c.g.globalCompositeOperation = 'source-in'; l.c.g.fillStyle = VEIL; l.c.g.fillRect(0, 0, W, H); l.c.g.globalCompositeOperation = 'source-over'; }
    }
    if (img) photo = camera(file, img);
  });
  say(''); refresh();
}
async function decodeWhole(url) { return createImageBitmap(await fetched(url)); }
element.addEventListener('chrysalis-open', e => load(e.detail || {}).catch(() => say('That drawing could not be opened.')));

// ---- a saved drawing: a PNG of what is seen, with the layers in a text chunk of their own
const KEYWORD = 'chrysalis-drawing', table = Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ n >>> 1 : n >>> 1; return n >>> 0; });
function crc(bytes) { let c = -1; for (const b of bytes) c = table[(c ^ b) & 255] ^ c >>> 8; return ~c >>> 0; }
const letters = text => Uint8Array.from(text, c => c.charCodeAt(0));
const asURL = blob => new Promise((ok, no) => { const r = new FileReader(); r.onload = () => ok(r.result); r.onerror = no; r.readAsDataURL(blob); });
// A photograph without what its file tells beside: where it was taken, by whom, with what.
function pixels(img) {
  const c = blank(img.width, img.height);
  c.g.fillStyle = '#fff'; c.g.fillRect(0, 0, c.width, c.height); c.g.drawImage(img, 0, 0);
  return new Promise(ok => c.toBlob(ok, 'image/png')).then(asURL);
}
async function bundle() {
  const size = [W, H];  // it may be changed while the photograph is read
  const own = Object.fromEntries(names.map(n => [n, { png: empty(layers[n]) ? '' : layers[n].c.toDataURL('image/png'), visible: layers[n].visible, opacity: layers[n].opacity }]));
  return { version: 1, width: size[0], height: size[1], layers: own, photo: photo ? await (photo.saved ??= pixels(photo.img)) : '' };
}
async function save() {
  const c = blank();
  compose(c.g, 1, false);
  const data = letters(KEYWORD + '\0' + JSON.stringify(await bundle()));
  const png = new Uint8Array(await (await new Promise(ok => c.toBlob(ok, 'image/png'))).arrayBuffer()), end = png.length - 12;
  const chunk = new Uint8Array(data.length + 12), number = new DataView(chunk.buffer);
  number.setUint32(0, data.length); chunk.set(letters('tEXt'), 4); chunk.set(data, 8);
  number.setUint32(data.length + 8, crc(chunk.subarray(4, data.length + 8)));
  const href = URL.createObjectURL(new Blob([png.subarray(0, end), chunk, png.subarray(end)], { type: 'image/png' }));
  Object.assign(document.createElement('a'), { href, download: 'drawing.png' }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}
// The layers that a PNG of ours carries; null for any other file.
async function inside(file) {
  const all = new Uint8Array(await file.arrayBuffer()), number = new DataView(all.buffer), text = new TextDecoder('latin1');
  if (all[0] !== 137 || all[1] !== 80) return null;
  for (let i = 8; i + 12 <= all.length; i += 12 + number.getUint32(i)) {
    const n = number.getUint32(i), kind = text.decode(all.subarray(i + 4, i + 8)), start = i + 8 + KEYWORD.length;
    if (kind === 'tEXt' && all[start] === 0 && text.decode(all.subarray(i + 8, start)) === KEYWORD) return JSON.parse(text.decode(all.subarray(start + 1, i + 8 + n)));
  }
  return null;
}
async function reopen(saved) {
  const size = [saved.width, saved.height], looks = saved.layers || {}, given = { photo: saved.photo };
  for (const n of ORDER) given[n] = looks[n] && looks[n].png;
  const sound = size.every(n => Number.isInteger(n) && n >= 16 && n <= 2048) && Object.values(given).every(url => !url || url.startsWith('data:image/'));
  if (saved.version !== 1 || !sound) throw new Error('not a drawing of ours');
  await load(given, { size, looks });
}

// The last drawing is kept in this browser: a reload, a server that starts again or a discarded tab costs nothing.
const PLACE = (element.closest('[id$=-canvas]') || element).id, BEFORE = PLACE + '-before';
const settled = r => new Promise((ok, no) => { r.onsuccess = r.oncomplete = () => ok(r.result); r.onerror = r.onabort = () => no(r.error); });
async function shelf(how, work) {
  const asked = indexedDB.open('chrysalis', 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore('drawings');
  const kept = await settled(asked);
  try {
    const done = kept.transaction('drawings', how), got = work(done.objectStore('drawings'));
    return (await settled(done), got && got.result);
  } finally { kept.close(); }
}
const bare = () => !photo && names.every(n => empty(layers[n]));
let offered = false;  // an earlier drawing, which nobody has opened or forgotten yet: an empty canvas does not replace it
async function keep() {
  clearTimeout(keeping);
  if (stroke) keeping = setTimeout(keep, 2000);
  if (stroke || (offered && bare())) return;
  try {
    const now = bare() ? null : await bundle();
    if (offered) { offered = false; const old = await shelf('readonly', s => s.get(PLACE)); await shelf('readwrite', s => s.put(old, BEFORE)); }
    await shelf('readwrite', s => now ? s.put(now, PLACE) : s.delete(PLACE));
  } catch { /* a private window keeps nothing */ }
}
document.addEventListener('visibilitychange', () => { if (document.hidden && keeping) keep(); });
const forget = key => { offered = false; say(''); shelf('readwrite', s => s.delete(key)).catch(() => {}); };
(async () => {
  const newest = await shelf('readonly', s => s.get(PLACE)), key = newest ? PLACE : BEFORE, kept = newest || await shelf('readonly', s => s.get(BEFORE));
  offered = !!kept && bare();
  if (offered) say('The last drawing is kept here.', [['Open it', () => { offered = false; reopen(kept).catch(() => say('It could not be opened.')); }, 'last'], ['Forget it', () => forget(key), 'forget']]);
})().catch(() => {});
