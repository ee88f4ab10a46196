// The drawing. This script alone writes the value; Python reads it. The document has its own size, whatever the screen's.
const q = s => element.querySelector(s), all = s => [...element.querySelectorAll(s)];
const LONG = 512, SMALL = 256, MEMORY = 128e6, VEIL = '#d6249f', ORDER = ['strokes', 'sketch', 'mask'];
const LABEL = { sketch: 'Lines', strokes: 'Colours', mask: 'Mask' }, names = [...props.layers];
const FLOWERS = [['#1b1a20', 'ink'], ['#ffffff', 'white'], ['#d92f45', 'rose'], ['#f48fb0', 'pink'], ['#f47c20', 'marigold'], ['#f7d038', 'sunflower'],
  ['#8c5bb5', 'lavender'], ['#3f62c9', 'cornflower'], ['#4f8f3f', 'leaf'], ['#8fb8de', 'sky'], ['#6b4a32', 'earth']];
const surface = q('.surface'), screen = surface.querySelector('canvas'), pen2d = screen.getContext('2d'), ring = q('.ring'), line = q('.say');
const clamp = (v, a, b) => Math.max(a, Math.min(b, v));
function button(className, title, innerHTML, act) {
  const b = Object.assign(document.createElement('button'), { type: 'button', className, title, ariaLabel: title, innerHTML });
  b.addEventListener('click', act);
  return b;
}

// ---- the document
let W = LONG, H = LONG, photo = null, dim = 1, active = names[0], tool = 'brush', smoothing = .3, patch = null, recent = [];
function blank(w = W, h = H) {
  const c = Object.assign(document.createElement('canvas'), { width: w, height: h });
  c.g = c.getContext('2d', { willReadFrequently: true }); c.g.imageSmoothingQuality = 'high';
  return c;
}
const START = { sketch: [4, '#1b1a20'], strokes: [28, '#d92f45'], mask: [56, VEIL] };
const layers = Object.fromEntries(names.map(n => [n, { name: n, c: blank(), visible: true, opacity: 1, version: 1, sent: {}, size: START[n][0], colour: START[n][1], ink: 1 }]));
let buffer = blank(), mix = blank();
// Some browsers guard against being told apart by altering what is read from a canvas. Nothing is decided by such pixels.
const falsified = (() => {
  const c = blank(64, 64), of = x => [4 * x, 255 - 4 * x, 7 * x % 256, 255];
  for (let x = 0; x < 64; x++) { c.g.fillStyle = `rgb(${of(x).slice(0, 3)})`; c.g.fillRect(x, 0, 1, 64); }
  return c.g.getImageData(0, 0, 64, 64).data.some((v, i) => v !== of((i >> 2) % 64)[i % 4]);
})();
const touch = (layer, inked = true) => { layer.version++; layer.inked = inked; };
function empty(layer) {
  if (falsified) return !layer.inked;
  if (layer.scanned !== layer.version) layer.void = !new Uint32Array(layer.c.g.getImageData(0, 0, W, H).data.buffer).some(v => v >>> 24);
  layer.scanned = layer.version;
  return layer.void;
}
// A layer as it looks now: while a stroke is drawn, with the stroke laid on it once, so that its opacity does not add up.
function looks(layer) {
  if (!stroke || stroke.layer !== layer) return layer.c;
  const g = mix.g;
  g.globalCompositeOperation = 'copy'; g.globalAlpha = 1; g.drawImage(layer.c, 0, 0);
  g.globalCompositeOperation = stroke.erase ? 'destination-out' : 'source-over'; g.globalAlpha = stroke.ink; g.drawImage(buffer, 0, 0);
  return mix;
}
// White, photograph, colours, lines; the mask only on screen.
function compose(g, light, mask) {
  g.fillStyle = '#fff'; g.fillRect(0, 0, W, H);
  if (photo) { g.globalAlpha = light; g.drawImage(photo.fit, 0, 0, W, H); }
  for (const layer of ORDER.map(n => layers[n]).filter(l => l && l.visible && (mask || l.name !== 'mask'))) {
    g.globalAlpha = layer.name === 'mask' ? .5 : layer.opacity;
    g.drawImage(looks(layer), 0, 0);
  }
  g.globalAlpha = 1;
}
function cover(p) {
  const k = Math.max(W / p.img.width, H / p.img.height), f = clamp(1 / k, 1, 2), w = p.img.width * k * f, h = p.img.height * k * f;
  p.fit = blank(Math.round(W * f), Math.round(H * f));
  p.fit.g.fillStyle = '#fff'; p.fit.g.fillRect(0, 0, p.fit.width, p.fit.height);
  p.fit.g.drawImage(p.img, (p.fit.width - w) / 2, (p.fit.height - h) / 2, w, h);
}
function resize(w, h) {
  const other = w !== W || h !== H;
  W = w; H = h; buffer = blank(); mix = blank();
  for (const n of names) { layers[n].c = blank(); touch(layers[n], false); }
  if (photo) cover(photo);
  surface.style.setProperty('--ratio', W / H);
  if (other) fit(); else paint();
}
const sides = ratio => { ratio = clamp(ratio, 1 / 3, 3); return ratio >= 1 ? [LONG, Math.round(LONG / ratio)] : [Math.round(LONG * ratio), LONG]; };

// ---- the value. `turn` counts what the hand has changed, `phase` says what is wanted of it: "change" nothing until Make is
// pressed, "live" a picture in few steps, "still" the same as good as it can be, "rest" one in full.
let coming = 0, live = false, lastLive = 0, lull = 0, rest = 0, keeping = 0, turn = 0, phase = 'change';
const scratch = blank(1, 1);  // used again: canvases are dear on a tablet
function packed(layer, small) {
  const busy = stroke && stroke.layer === layer, k = small ? Math.min(1, SMALL / Math.max(W, H)) : 1, key = `${layer.version} ${layer.opacity}`;
  if (!layer.visible || (empty(layer) && !busy)) return '';
  if (!busy && layer.sent[small] && layer.sent[small].key === key) return layer.sent[small].url;
  Object.assign(scratch, { width: Math.max(1, Math.round(W * k)), height: Math.max(1, Math.round(H * k)) });  // which clears it
  Object.assign(scratch.g, { imageSmoothingQuality: 'high', globalAlpha: layer.opacity });
  scratch.g.drawImage(looks(layer), 0, 0, scratch.width, scratch.height);
  const url = scratch.toDataURL('image/png');
  if (!busy) layer.sent[small] = { key, url };
  return url;
}
function set(small) {
  const sent = Object.fromEntries(names.map(n => [n, packed(layers[n], small)]));
  props.value = { turn, phase, width: W, height: H, photo: coming ? { path: '' } : photo && { path: photo.path }, layers: sent };
}
const hold = () => { clearTimeout(lull); clearTimeout(rest); };
// The hand moves on: what is still being made because it did not is no longer wanted.
function wake() {
  turn++; hold();
  if (phase === 'still' || phase === 'rest') trigger('wake', { turn });
  phase = live ? 'live' : 'change';
}
// Gradio takes the value as it is when an event is triggered, so after a stroke the small one is replaced at once. While a
// stroke goes on it stays: Make pressed then gets what is drawn so far, small.
function follow() { lastLive = performance.now(); wake(); set(true); trigger('live'); linger(); }
function soon() { if (live && performance.now() - lastLive > 120) follow(); else if (live) linger(); }
// The pen is still, on the paper or off it.
function linger() { clearTimeout(lull); lull = setTimeout(() => { phase = 'still'; set(true); trigger('live'); if (!stroke) set(false); }, 150); }
function tell() {
  if (live) { follow(); rest = setTimeout(() => { phase = 'rest'; set(false); trigger('live'); }, 1200); } else wake();
  set(false);  // Gradio tells "change" of itself
  clearTimeout(keeping); keeping = setTimeout(keep, 2000);
}
function still() { hold(); live = false; phase = 'change'; refresh(); tell(); }
// What is beside the canvas: a slider that was moved, Make (the picture in full: no other when the hand rests), Stop.
const BESIDE = { move: () => { if (live && !stroke) tell(); }, make: hold, stop: () => { if (live) still(); } };
element.addEventListener('chrysalis-hand', e => BESIDE[e.detail]());

// ---- undo: the changed rectangle of a layer, or everything when everything changed
let past = [], future = [];
function push(op) {
  past.push(op); future = [];
  let sum = 0, i = past.length;
  while (i > 0 && (sum += past[i - 1].bytes) <= MEMORY) i--;
  if (i) past = past.slice(Math.min(i, past.length - 1));
  refresh();
}
function step(from, to, way) {
  if (stroke || edging || !from.length) return;
  const op = from.pop();
  to.push(op); op[way](); refresh(); paint(); tell();
}
const undo = () => step(past, future, 'undo'), redo = () => step(future, past, 'redo');
function grab(layer, x, y, w, h) {
  if (!falsified) return layer.c.g.getImageData(x, y, w, h);
  const c = blank(w, h);
  c.g.drawImage(layer.c, -x, -y);
  return c;
}
function put(layer, data, x, y) {
  const g = layer.c.g;
  if (falsified) { g.clearRect(x, y, data.width, data.height); g.drawImage(data, x, y); } else g.putImageData(data, x, y);
  touch(layer);
}
function same(a, b) {
  if (falsified) return false;
  const p = new Uint32Array(a.data.buffer), r = new Uint32Array(b.data.buffer); return p.every((v, i) => v === r[i]); }
// Runs `change` on a rectangle of a layer. True when it changed anything.
function edit(layer, x0, y0, x1, y1, change) {
  const x = clamp(Math.floor(x0), 0, W), y = clamp(Math.floor(y0), 0, H), w = clamp(Math.ceil(x1), 0, W) - x, h = clamp(Math.ceil(y1), 0, H) - y;
  if (w <= 0 || h <= 0) return false;
  const before = grab(layer, x, y, w, h);
  change(layer.c.g, x, y, w, h); touch(layer);
  const after = grab(layer, x, y, w, h);
  if (same(before, after)) return false;
  push({ bytes: 8 * w * h, undo: () => put(layer, before, x, y), redo: () => put(layer, after, x, y) });
  return true;
}
function snap() {
  const kept = names.map(n => [n, { data: empty(layers[n]) ? null : grab(layers[n], 0, 0, W, H), visible: layers[n].visible, opacity: layers[n].opacity }]);
  return { w: W, h: H, photo, kept, bytes: kept.reduce((s, [, k]) => s + (k.data ? 4 * W * H : 0), photo ? 4 * (photo.img.width * photo.img.height + photo.fit.width * photo.fit.height) : 0) };
}
function restore(s) {
  photo = s.photo;
  resize(s.w, s.h);
  for (const [n, k] of s.kept) { if (k.data) put(layers[n], k.data, 0, 0); layers[n].visible = k.visible; layers[n].opacity = k.opacity; }
}
function whole(change) {
  if (stroke) finish();
  const before = snap(), after = (change(), snap());
  push({ bytes: before.bytes + after.bytes, undo: () => restore(before), redo: () => restore(after) });
  paint(); tell();
}
