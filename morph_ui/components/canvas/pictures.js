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
// What is shown is what was opened on the other side. Make is told meanwhile that a photograph is coming.
async function camera(file) {
  coming++; tell();
  try {
    const got = await bring(file);
    return { ...got, img: await decode(await fetched(got.url)) };
  } finally { coming--; set(false); }
}
function underlay(p, note) {
  whole(() => { if (bare()) resize(...sides(p.img.width / p.img.height)); cover(p); photo = p; });
  const by = p.img.width * H / (p.img.height * W), share = Math.round(100 * Math.min(by, 1 / by));
  say([note, share < 75 && `Of the photograph the middle ${share} % is shown.`].filter(Boolean).join(' '));
}
async function take([file, ...others], nothing = '') {
  if (!file) return nothing && say(nothing);
  if (patch) unfloat();
  let saved = null, p = null;
  try { await file.slice(0, 1).arrayBuffer(); } catch { return say(`${file.name} cannot be read. Is it a folder?`); }
  try { saved = await inside(file); } catch { return say(`${file.name} was saved here, but its layers are broken.`); }
  if (saved) { try { return await reopen(saved); } catch { return say(`${file.name} was saved here, but its layers are broken.`); } }
  const turn = ++opening;
  say(`Opening ${file.name} …`);
  try { p = await camera(file); } catch (e) { return turn === opening && say(e.message); }
  if (turn !== opening) return;
  const note = [p.note, others.length ? `Only ${file.name} was taken: the canvas holds one photograph.` : ''].filter(Boolean).join(' ');
  if (!photo) return underlay(p, note);
  say(`${note} A photograph is there already. Put this one in`.trim(), [['as photograph', () => underlay(p, ''), 'photo'], ['as patch on top', () => float(p.img), 'patch'], ['not at all', () => say(''), 'no']]);
}
// Layers and a photograph given as URLs or data URLs; what is not given is cleared. `about` tells sizes and looks, if they were saved.
let opening = 0;
async function load(given, about = null) {
  const turn = ++opening, got = {};
  for (const n of ORDER) if (given[n]) got[n] = await decodeWhole(given[n]);
  let p = null;
  if (given.photo) { const blob = await fetched(given.photo); p = await camera(new File([blob], `photograph.${blob.type.split('/')[1] || 'png'}`, { type: blob.type })); }
  if (turn !== opening) return;
  const first = got.sketch || got.strokes || got.mask || (p && p.img);
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
    if (p) { cover(p); photo = p; }
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
async function bundle() {
  const size = [W, H];  // it may be changed while the photograph is read
  const own = Object.fromEntries(names.map(n => [n, { png: empty(layers[n]) ? '' : layers[n].c.toDataURL('image/png'), visible: layers[n].visible, opacity: layers[n].opacity }]));
  const p = photo, small = () => p.img.toDataURL('image/jpeg', .95);
  // As it was opened, without what a camera writes into its files: where, when, by whom.
  const picture = p && await fetched(p.url).then(b => b.size < 12e6 ? asURL(b) : small()).catch(small) || '';
  return { version: 1, width: size[0], height: size[1], layers: own, photo: picture };
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

// Drawings are kept in this browser, one a visit: a reload, a server that starts again or a discarded tab costs nothing,
// and two tabs do not take each other's place. A visit offers its tab's own last one first.
const PLACE = (element.closest('[id$=-canvas]') || element).id, KEPT = 6, own = `${PLACE} ${Date.now()} ${Math.random().toString(36).slice(2)}`;
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
let before = null;  // this tab's last drawing, which is in this one since it was opened
async function keep() {
  clearTimeout(keeping);
  if (stroke) keeping = setTimeout(keep, 2000);
  if (stroke) return;
  try {
    const now = bare() ? null : await bundle(), old = now && before;
    await shelf('readwrite', s => { if (old) s.delete(old); return now ? s.put({ ...now, at: Date.now() }, own) : s.delete(own); });
    if (old) before = null;
    if (now) sessionStorage.setItem(PLACE, own);
  } catch { /* a private window keeps nothing */ }
}
document.addEventListener('visibilitychange', () => { if (document.hidden && keeping) keep(); });
(async () => {
  const mine = sessionStorage.getItem(PLACE), keys = (await shelf('readonly', s => s.getAllKeys())).filter(k => k.split('-before')[0].split(' ')[0] === PLACE);
  const found = [];
  for (const key of keys) found.push([key, await shelf('readonly', s => s.get(key))]);
  found.sort(([k, a], [l, b]) => (l === mine) - (k === mine) || (b.at || 0) - (a.at || 0));
  shelf('readwrite', s => { for (const [key] of found.slice(KEPT)) s.delete(key); });
  const list = found.slice(0, KEPT);
  if (!list.length || !bare()) return;
  const offer = () => say(list.length > 1 ? `${list.length} drawings are kept here.` : 'The last drawing is kept here.', [
    [list.length > 1 ? 'Open the last' : 'Open it', () => take_up(), 'last'], ...(list.length > 1 ? [['Another', () => { list.push(list.shift()); take_up().then(offer); }, 'other']] : []),
    [list.length > 1 ? 'Forget them' : 'Forget it', () => { say(''); shelf('readwrite', s => { for (const [key] of list) s.delete(key); }).catch(() => {}); }, 'forget']]);
  const take_up = async () => {
    const [key, kept] = list[0];
    before = key === mine ? key : null;
    try { await reopen(kept); } catch { say('It could not be opened.'); }
  };
  offer();
})().catch(() => {});
