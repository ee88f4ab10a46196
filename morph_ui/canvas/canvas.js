// The drawing. This script alone writes the value; Python reads it. The document has its own size, whatever the screen's.
const q = s => element.querySelector(s), all = s => [...element.querySelectorAll(s)];
const LONG = 512, SMALL = 256, MEMORY = 128e6, VEIL = '#d6249f', ORDER = ['strokes', 'sketch', 'mask'];
const LABEL = { sketch: 'Lines', strokes: 'Colours', mask: 'Mask' }, names = [...props.layers];
const FOREIGN = /\.(psd|psb|kra|ora|xcf|procreate|clip|afphoto|ai|svg)$/i;
const FLOWERS = [['#1b1a20', 'ink'], ['#ffffff', 'white'], ['#d92f45', 'rose'], ['#f48fb0', 'pink'], ['#f47c20', 'marigold'], ['#f7d038', 'sunflower'],
  ['#8c5bb5', 'lavender'], ['#3f62c9', 'cornflower'], ['#4f8f3f', 'leaf'], ['#8fb8de', 'sky'], ['#6b4a32', 'earth']];
const surface = q('.surface'), screen = surface.querySelector('canvas'), pen2d = screen.getContext('2d'), ring = q('.ring'), line = q('.say');
const clamp = (v, a, b) => Math.max(a, Math.min(b, v));

// ---- the document
let W = LONG, H = LONG, photo = null, dim = 1, active = names[0], tool = 'brush', smoothing = .3, patch = null, recent = [];
function blank(w = W, h = H) {
  const c = document.createElement('canvas');
  c.width = w; c.height = h;
  c.g = c.getContext('2d', { willReadFrequently: true });
  return c;
}
const START = { sketch: [4, '#1b1a20'], strokes: [28, '#d92f45'], mask: [56, VEIL] };
const layers = Object.fromEntries(names.map(n => [n, { name: n, c: blank(), visible: true, opacity: 1, version: 1, sent: {}, size: START[n][0], colour: START[n][1], ink: 1 }]));
let buffer = blank(), mix = blank(), veil = blank();
const shown = () => ORDER.filter(n => layers[n] && layers[n].visible).map(n => layers[n]);
const touch = layer => { layer.version++; };
function empty(layer) {
  if (layer.scanned !== layer.version) {
    const d = new Uint32Array(layer.c.g.getImageData(0, 0, W, H).data.buffer);
    layer.void = !d.some(v => v >>> 24); layer.scanned = layer.version;
  }
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
function veiled(layer) {
  const g = veil.g;
  if (veil.of === layer.version && !stroke) return veil;
  g.globalCompositeOperation = 'copy'; g.drawImage(looks(layer), 0, 0);
  g.globalCompositeOperation = 'source-in'; g.fillStyle = VEIL; g.fillRect(0, 0, W, H);
  veil.of = stroke ? 0 : layer.version;
  return veil;
}
// White, photograph, colours, lines; the mask only on screen.
function compose(g, light, mask) {
  g.fillStyle = '#fff'; g.fillRect(0, 0, W, H);
  if (photo) { g.globalAlpha = light; g.drawImage(photo.fit, 0, 0, W, H); }
  for (const layer of shown()) {
    if (layer.name === 'mask' && !mask) continue;
    g.globalAlpha = layer.name === 'mask' ? .5 : layer.opacity;
    g.drawImage(layer.name === 'mask' ? veiled(layer) : looks(layer), 0, 0);
  }
  g.globalAlpha = 1;
}
function cover(p) {
  const k = Math.max(W / p.img.width, H / p.img.height), f = clamp(1 / k, 1, 2);
  p.fit = blank(Math.round(W * f), Math.round(H * f));
  const w = p.img.width * k * f, h = p.img.height * k * f;
  p.fit.g.imageSmoothingQuality = 'high';
  p.fit.g.fillStyle = '#fff'; p.fit.g.fillRect(0, 0, p.fit.width, p.fit.height);
  p.fit.g.drawImage(p.img, (p.fit.width - w) / 2, (p.fit.height - h) / 2, w, h);
}
function resize(w, h) {
  const other = w !== W || h !== H;
  W = w; H = h;
  for (const n of names) { layers[n].c = blank(); touch(layers[n]); }
  buffer = blank(); mix = blank(); veil = blank();
  if (photo) cover(photo);
  surface.style.aspectRatio = `${W} / ${H}`;
  if (other) fit(); else paint();
}
const sides = ratio => { ratio = clamp(ratio, 1 / 3, 3); return ratio >= 1 ? [LONG, Math.round(LONG / ratio)] : [Math.round(LONG * ratio), LONG]; };

// ---- the value
let live = false, lastLive = 0, rest = 0;
function packed(layer, small) {
  if (!layer.visible || (empty(layer) && !(stroke && stroke.layer === layer))) return '';
  const k = small ? Math.min(1, SMALL / Math.max(W, H)) : 1, key = `${layer.version} ${layer.opacity}`, at = small ? 'small' : 'full';
  if (!stroke && layer.sent[at] && layer.sent[at].key === key) return layer.sent[at].url;
  let c = looks(layer);
  if (k < 1 || layer.opacity < 1) {
    const out = blank(Math.max(1, Math.round(W * k)), Math.max(1, Math.round(H * k)));
    out.g.imageSmoothingQuality = 'high'; out.g.globalAlpha = layer.opacity; out.g.drawImage(c, 0, 0, out.width, out.height);
    c = out;
  }
  const url = c.toDataURL('image/png');
  if (!stroke) layer.sent[at] = { key, url };
  return url;
}
function set(small) {
  const sent = Object.fromEntries(names.map(n => [n, packed(layers[n], small)]));
  props.value = JSON.stringify({ width: W, height: H, photo: photo && { path: photo.path }, layers: sent, live: small, following: live });
}
function tellLive() { lastLive = performance.now(); set(true); trigger('live'); }
// Gradio takes the value as it is when an event is triggered, so the small one may be replaced at once: Make never sees it.
function tell() {
  if (live) { tellLive(); later(); }
  set(false);  // Gradio tells "change" of itself
}
function later() { clearTimeout(rest); if (live) rest = setTimeout(() => trigger('rest'), 1200); }

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
  if (stroke || !from.length) return;
  const op = from.pop();
  to.push(op); op[way](); refresh(); paint(); tell();
}
const undo = () => step(past, future, 'undo'), redo = () => step(future, past, 'redo');
function put(layer, data, x, y) { layer.c.g.putImageData(data, x, y); touch(layer); }
function same(a, b) { const p = new Uint32Array(a.data.buffer), r = new Uint32Array(b.data.buffer); return p.every((v, i) => v === r[i]); }
// Runs `change` on a rectangle of a layer. True when it changed anything.
function edit(layer, x0, y0, x1, y1, change) {
  const x = clamp(Math.floor(x0), 0, W), y = clamp(Math.floor(y0), 0, H), w = clamp(Math.ceil(x1), 0, W) - x, h = clamp(Math.ceil(y1), 0, H) - y;
  if (w <= 0 || h <= 0) return false;
  const before = layer.c.g.getImageData(x, y, w, h);
  change(layer.c.g, x, y, w, h);
  touch(layer);
  const after = layer.c.g.getImageData(x, y, w, h);
  if (same(before, after)) return false;
  push({ bytes: 8 * w * h, undo: () => put(layer, before, x, y), redo: () => put(layer, after, x, y) });
  return true;
}
function snap() {
  const kept = names.map(n => [n, { data: empty(layers[n]) ? null : layers[n].c.g.getImageData(0, 0, W, H), visible: layers[n].visible, opacity: layers[n].opacity }]);
  return { w: W, h: H, photo, kept, bytes: kept.reduce((s, [, k]) => s + (k.data ? 4 * W * H : 0), photo ? 4e6 : 0) };
}
function restore(s) {
  photo = s.photo && !s.photo.lost ? s.photo : null;
  resize(s.w, s.h);
  for (const [n, k] of s.kept) { if (k.data) put(layers[n], k.data, 0, 0); layers[n].visible = k.visible; layers[n].opacity = k.opacity; }
}
function whole(change) {
  if (stroke) finish();
  const before = snap();
  change();
  const after = snap();
  push({ bytes: before.bytes + after.bytes, undo: () => restore(before), redo: () => restore(after) });
  paint(); tell();
}

// ---- the screen
let view = { k: 1, x: 0, y: 0 }, fitted = true, queued = 0, wide = 0, high = 0;
function fit() {
  wide = surface.clientWidth; high = surface.clientHeight;
  if (!wide) return;
  const k = Math.min(wide / W, high / H);
  view = { k, x: (wide - W * k) / 2, y: (high - H * k) / 2 }; fitted = true;
  paint();
}
function zoom(by, x = wide / 2, y = high / 2) {
  const least = Math.min(wide / W, high / H) * .5, k = clamp(view.k * by, least, 24);
  view.x = x - (x - view.x) * k / view.k; view.y = y - (y - view.y) * k / view.k; view.k = k;
  pan(0, 0);
}
function pan(dx, dy) {
  view.x = clamp(view.x + dx, 40 - W * view.k, wide - 40); view.y = clamp(view.y + dy, 40 - H * view.k, high - 40);
  fitted = false; paint();
}
function paint() { if (!queued) queued = requestAnimationFrame(show); }
function show() {
  queued = 0;
  if (!wide) return;
  const r = Math.min(window.devicePixelRatio || 1, 2), g = pen2d;
  if (screen.width !== Math.round(wide * r) || screen.height !== Math.round(high * r)) { screen.width = Math.round(wide * r); screen.height = Math.round(high * r); }
  g.setTransform(1, 0, 0, 1, 0, 0); g.clearRect(0, 0, screen.width, screen.height);
  g.setTransform(view.k * r, 0, 0, view.k * r, view.x * r, view.y * r);
  g.imageSmoothingEnabled = view.k * r < 3; g.imageSmoothingQuality = view.k * r < 1 ? 'high' : 'low';
  g.save(); g.beginPath(); g.rect(0, 0, W, H); g.clip();
  compose(g, dim, true);
  g.restore();
  if (patch) {
    const { x, y, w, h } = box(), u = 1 / view.k;
    g.drawImage(patch.img, x, y, w, h);
    g.lineWidth = 1.5 * u; g.strokeStyle = '#fff'; g.strokeRect(x, y, w, h); g.setLineDash([5 * u, 4 * u]); g.strokeStyle = '#222'; g.strokeRect(x, y, w, h); g.setLineDash([]);
    for (const [cx, cy] of [[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) { g.fillStyle = '#fff'; g.fillRect(cx - 5 * u, cy - 5 * u, 10 * u, 10 * u); g.strokeRect(cx - 5 * u, cy - 5 * u, 10 * u, 10 * u); }
  }
}
function place(e) { const b = surface.getBoundingClientRect(); return { x: e.clientX - b.left - surface.clientLeft, y: e.clientY - b.top - surface.clientTop }; }
function at(e) { const p = place(e); return { x: (p.x - view.x) / view.k, y: (p.y - view.y) / view.k }; }
let last = null;
function circle(e) {
  last = e;
  const on = e && e.pointerType !== 'touch' && (tool === 'brush' || tool === 'eraser') && !patch && !spaced;
  ring.style.display = on ? 'block' : 'none';
  if (!on) return;
  const p = place(e), s = Math.max(3, layers[active].size * view.k);
  ring.style.width = ring.style.height = `${s}px`; ring.style.transform = `translate(${p.x - s / 2}px, ${p.y - s / 2}px)`;
}
new ResizeObserver(() => {
  const w = surface.clientWidth, h = surface.clientHeight;
  if (!w || (w === wide && h === high)) return;
  if (fitted || !wide) return fit();
  view.x += (w - wide) / 2; view.y += (h - high) / 2; wide = w; high = h;
  pan(0, 0);
}).observe(surface);

// ---- strokes
let stroke = null;
function begin(e, erase) {
  const layer = layers[active], p = at(e);
  if (!layer.visible) { layer.visible = true; refresh(); say(`${LABEL[active]} was hidden; it is shown again.`); }
  stroke = { id: e.pointerId, type: e.pointerType, layer, erase, ink: layer.ink, x: p.x, y: p.y, box: [W, H, 0, 0] };
  stroke.a = stroke.m = stroke.end = { ...p, w: width(e) };
  const g = buffer.g;
  g.lineCap = g.lineJoin = 'round'; g.strokeStyle = g.fillStyle = erase ? '#000' : layer.colour;
  g.beginPath(); g.arc(p.x, p.y, stroke.a.w / 2, 0, 7); g.fill();
  q('.hint').hidden = true;
  grow(stroke.a); paint();
}
function width(e) { return stroke.layer.size * (e.pointerType === 'pen' ? .08 + .92 * e.pressure : 1); }
function grow(p) { const b = stroke.box, r = p.w / 2 + 2; b[0] = Math.min(b[0], p.x - r); b[1] = Math.min(b[1], p.y - r); b[2] = Math.max(b[2], p.x + r); b[3] = Math.max(b[3], p.y + r); }
function extend(e) {
  const p = at(e), s = stroke;
  s.x += (p.x - s.x) * (1 - smoothing); s.y += (p.y - s.y) * (1 - smoothing);
  s.end = { ...p, w: width(e) };
  segment({ x: s.x, y: s.y, w: s.end.w });
}
function segment(n) {
  const s = stroke, a = s.a;
  if (Math.hypot(n.x - a.x, n.y - a.y) < .25) return;
  const m = { x: (a.x + n.x) / 2, y: (a.y + n.y) / 2, w: (a.w + n.w) / 2 };
  curve(s.m, a, m);
  s.m = m; s.a = n; grow(a); grow(n);
}
// From one midpoint to the next, bent by the point between: fast strokes are curves. A changing width is drawn in short pieces.
function curve(p, c, n) {
  const g = buffer.g, parts = Math.abs(p.w - n.w) < .05 ? 1 : Math.ceil((Math.hypot(c.x - p.x, c.y - p.y) + Math.hypot(n.x - c.x, n.y - c.y)) / 2) + 1;
  if (parts === 1) { g.lineWidth = n.w; g.beginPath(); g.moveTo(p.x, p.y); g.quadraticCurveTo(c.x, c.y, n.x, n.y); g.stroke(); return; }
  let x = p.x, y = p.y;
  for (let i = 1; i <= parts; i++) {
    const t = i / parts, u = 1 - t, nx = u * u * p.x + 2 * u * t * c.x + t * t * n.x, ny = u * u * p.y + 2 * u * t * c.y + t * t * n.y;
    g.lineWidth = p.w + (n.w - p.w) * t; g.beginPath(); g.moveTo(x, y); g.lineTo(nx, ny); g.stroke();
    x = nx; y = ny;
  }
}
function wipe() { buffer.g.clearRect(0, 0, W, H); stroke = null; paint(); }
function finish() {
  const s = stroke;
  segment(s.end);
  curve(s.m, s.a, s.a);
  const changed = edit(s.layer, ...s.box, (g, x, y, w, h) => {
    g.save(); g.globalCompositeOperation = s.erase ? 'destination-out' : 'source-over'; g.globalAlpha = s.ink;
    g.drawImage(buffer, x, y, w, h, x, y, w, h); g.restore();
  });
  wipe();
  if (changed && !s.erase && s.layer.name !== 'mask') remember(s.layer.colour);
  tell();
}
function takeBack() { if (stroke) { wipe(); tell(); } }

// ---- fill and pick, both of what is seen
function seen() { const c = blank(); compose(c.g, dim, false); return c.g.getImageData(0, 0, W, H).data; }
function fill(p) {
  const x = Math.floor(p.x), y = Math.floor(p.y), layer = layers[active];
  if (x < 0 || y < 0 || x >= W || y >= H) return;
  if (!layer.visible) { layer.visible = true; refresh(); }
  const d = seen(), tolerance = +q('.tolerance').value, inside = new Uint8Array(W * H), stack = [y * W + x], o = stack[0] * 4, [r, gr, b] = [d[o], d[o + 1], d[o + 2]];
  const near = i => !inside[i] && Math.abs(d[4 * i] - r) <= tolerance && Math.abs(d[4 * i + 1] - gr) <= tolerance && Math.abs(d[4 * i + 2] - b) <= tolerance;
  while (stack.length) {
    let i = stack.pop();
    if (!near(i)) continue;
    const row = i - i % W, last = row + W;
    let l = i, e = i;
    while (l > row && near(l - 1)) l--;
    while (e < last - 1 && near(e + 1)) e++;
    for (i = l; i <= e; i++) inside[i] = 1;
    for (const by of [-W, W]) for (let on = false, k = l + by; k <= e + by; k++) { const ok = k >= 0 && k < W * H && near(k); if (ok && !on) stack.push(k); on = ok; }
  }
  // One pixel more, under the soft edge of the lines, so that no light seam stays.
  const [cr, cg, cb] = [1, 3, 5].map(i => parseInt(layer.colour.slice(i, i + 2), 16)), flat = new ImageData(W, H);
  for (let j = 0; j < H; j++) for (let i = 0; i < W; i++) {
    const k = j * W + i;
    if (inside[k] || (i && inside[k - 1]) || (i < W - 1 && inside[k + 1]) || (j && inside[k - W]) || (j < H - 1 && inside[k + W])) flat.data.set([cr, cg, cb, 255], 4 * k);
  }
  const c = blank();
  c.g.putImageData(flat, 0, 0);
  if (edit(layer, 0, 0, W, H, g => { g.globalAlpha = layer.ink; g.drawImage(c, 0, 0); g.globalAlpha = 1; })) { if (active !== 'mask') remember(layer.colour); paint(); tell(); }
}
function pick(p) {
  const x = Math.floor(p.x), y = Math.floor(p.y);
  if (x < 0 || y < 0 || x >= W || y >= H || active === 'mask') return;
  const c = blank(1, 1);
  c.g.translate(-x, -y); compose(c.g, dim, false);
  colour('#' + [...c.g.getImageData(0, 0, 1, 1).data.slice(0, 3)].map(v => v.toString(16).padStart(2, '0')).join(''));
}

// ---- pointers. Once a pen was seen, a finger never draws: it moves the view. Two fingers always do.
const fingers = new Map();
let penSeen = false, drag = null, pinch = null, tap = null, picking = null, spaced = false, over = false, grip = null;
function spread() { const [a, b] = [...fingers.values()]; return { d: Math.hypot(a.x - b.x, a.y - b.y) || 1, x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }; }
surface.addEventListener('pointerdown', e => {
  if (e.target.closest('button')) return;
  const finger = e.pointerType === 'touch', busy = stroke || drag || grip || picking;
  if (e.pointerType === 'pen') penSeen = true;
  e.preventDefault(); surface.focus({ preventScroll: true });
  try { surface.setPointerCapture(e.pointerId); } catch { /* it is gone already */ }
  if (finger) {
    fingers.set(e.pointerId, place(e));
    if (stroke && stroke.type !== 'touch') return;  // the palm of the hand that holds the pen
    if (fingers.size > 1) { takeBack(); drag = tap = grip = picking = null; pinch = fingers.size === 2 ? spread() : { idle: true }; return; }
  } else if (busy && e.pointerType === 'pen' && !stroke && drag && fingers.has(drag.id)) { drag = null; } else if (busy) return;
  if (e.pointerType === 'pen') pinch = null;
  if (pinch || e.button === 2) return;
  const p = at(e), held = e.button === 1 || spaced || tool === 'hand';
  if (patch && !held) { grip = hold(p, e.pointerId); if (grip) return; }
  if (held || patch || (finger && penSeen)) drag = { id: e.pointerId, ...place(e) };
  else if (tool === 'pick' || (e.altKey && tool === 'brush')) { picking = e.pointerId; pick(p); }
  else if (tool === 'fill') tap = { id: e.pointerId, p };
  else { clearTimeout(rest); begin(e, tool === 'eraser' || !!(e.buttons & 32)); }
});
surface.addEventListener('pointermove', e => {
  over = true; circle(e);
  if (fingers.has(e.pointerId)) fingers.set(e.pointerId, place(e));
  if (pinch) {
    if (fingers.size !== 2 || pinch.idle) return;
    const now = spread();
    pan(now.x - pinch.x, now.y - pinch.y); zoom(now.d / pinch.d, now.x, now.y);
    pinch = now;
  } else if (drag && drag.id === e.pointerId) { const p = place(e); pan(p.x - drag.x, p.y - drag.y); drag = { id: drag.id, ...p }; }
  else if (grip && grip.id === e.pointerId) pull(at(e));
  else if (picking === e.pointerId) pick(at(e));
  else if (stroke && stroke.id === e.pointerId) {
    const between = e.getCoalescedEvents ? e.getCoalescedEvents() : [];
    for (const c of between.length ? between : [e]) extend(c);
    paint();
    if (live && performance.now() - lastLive > 120) tellLive();
  }
});
// A cancelled pointer ends its stroke like a lifted one: what was drawn stays.
function lift(e) {
  if (stroke && stroke.id === e.pointerId) finish();
  if (tap && tap.id === e.pointerId) { const p = tap.p; tap = null; if (e.type === 'pointerup') fill(p); }
  if (drag && drag.id === e.pointerId) drag = null;
  if (grip && grip.id === e.pointerId) grip = null;
  if (picking === e.pointerId) picking = null;
  if (fingers.delete(e.pointerId) && pinch) pinch = fingers.size ? { idle: true } : null;
}
for (const kind of ['pointerup', 'pointercancel', 'lostpointercapture']) surface.addEventListener(kind, lift);
surface.addEventListener('pointerleave', () => { over = false; ring.style.display = 'none'; });
surface.addEventListener('contextmenu', e => e.preventDefault());
surface.addEventListener('touchmove', e => e.preventDefault(), { passive: false });
surface.addEventListener('wheel', e => {
  if (patch && !e.ctrlKey) { e.preventDefault(); patch.k = clamp(patch.k * Math.exp(-e.deltaY / 500), .02, 20); paint(); return; }
  if (!e.ctrlKey && !e.metaKey) return;
  e.preventDefault();
  const p = place(e);
  zoom(Math.exp(-clamp(e.deltaY, -60, 60) / 120), p.x, p.y); circle(e);
}, { passive: false });

// ---- a patch: a picture that floats until it is set into the colours
function box() { const w = patch.img.width * patch.k, h = patch.img.height * patch.k; return { x: patch.x - w / 2, y: patch.y - h / 2, w, h }; }
function float(img) {
  patch = { img, x: W / 2, y: H / 2, k: Math.min(W * .6 / img.width, H * .6 / img.height) };
  surface.dataset.is = 'patch';
  say('Drag it into place; a corner scales it.', [['✓ Set', settle, 'set'], ['× Drop', unfloat, 'drop']]);
  surface.focus({ preventScroll: true }); paint();
}
function hold(p, id) {
  const b = box(), r = 16 / view.k, corner = [b.x, b.x + b.w].some(x => Math.abs(p.x - x) < r) && [b.y, b.y + b.h].some(y => Math.abs(p.y - y) < r);
  if (corner) return { id, from: Math.hypot(p.x - patch.x, p.y - patch.y) || 1, k: patch.k };
  return p.x > b.x && p.x < b.x + b.w && p.y > b.y && p.y < b.y + b.h ? { id, dx: patch.x - p.x, dy: patch.y - p.y } : null;
}
function pull(p) {
  if (grip.from) patch.k = clamp(grip.k * Math.hypot(p.x - patch.x, p.y - patch.y) / grip.from, .02, 20);
  else { patch.x = p.x + grip.dx; patch.y = p.y + grip.dy; }
  paint();
}
function settle() {
  if (!patch) return;
  const { x, y, w, h } = box(), layer = layers.strokes, img = patch.img;
  layer.visible = true;
  edit(layer, x, y, x + w, y + h, g => { g.imageSmoothingQuality = 'high'; g.drawImage(img, x, y, w, h); });
  unfloat(); tell();
}
function unfloat() { patch = grip = null; choose(tool); say(''); refresh(); paint(); }

// ---- pictures in
const MOST = 1536;
function say(text, buttons = []) {
  line.textContent = text;
  for (const [label, act, name] of buttons) {
    const b = document.createElement('button');
    b.type = 'button'; b.textContent = label; b.dataset.say = name; b.addEventListener('click', act);
    line.append(b);
  }
}
async function decode(blob) {
  const map = await createImageBitmap(blob), k = Math.min(1, MOST / Math.max(map.width, map.height)), c = blank(Math.max(1, Math.round(map.width * k)), Math.max(1, Math.round(map.height * k)));
  c.g.imageSmoothingQuality = 'high'; c.g.drawImage(map, 0, 0, c.width, c.height);
  map.close();
  return c;
}
const fetched = async url => (await fetch(url)).blob();
const asFile = (blob, name) => new File([blob], name, { type: blob.type || 'image/png' });
function camera(file, img) {
  const p = { img, file, path: '' };
  cover(p);
  upload(file).then(got => { p.path = got.path; }, e => {
    p.lost = true;
    if (photo === p) { photo = null; paint(); }
    say(`${file.name} could not be sent: ${e.message || e}`);
  }).then(() => { refresh(); if (photo === p || !p.path) tell(); });
  return p;
}
function underlay(file, img) {
  say('');
  whole(() => {
    const clean = !photo && names.every(n => empty(layers[n]));
    if (clean) resize(...sides(img.width / img.height));
    photo = camera(file, img);
  });
}
async function take(file) {
  if (!file) return;
  if (FOREIGN.test(file.name)) return say(`${file.name} is a file of another program; save it there as PNG, JPEG or WebP, which can be opened here.`);
  if (patch) unfloat();
  let saved = null, img = null;
  try { saved = await inside(file); } catch { return say(`${file.name} was saved here, but its layers are broken.`); }
  if (saved) { try { return await reopen(saved); } catch { return say(`${file.name} was saved here, but its layers are broken.`); } }
  try { img = await decode(file); } catch { return say(`${file.name || 'That'} is no picture that can be opened; PNG, JPEG, WebP, GIF and AVIF can.`); }
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
    for (const n of ORDER) if (got[n] && to(n)) { to(n).c.g.imageSmoothingQuality = 'high'; to(n).c.g.drawImage(got[n], 0, 0, W, H); touch(to(n)); }
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
async function save() {
  const c = blank();
  compose(c.g, 1, false);
  const own = Object.fromEntries(names.map(n => [n, { png: empty(layers[n]) ? '' : layers[n].c.toDataURL('image/png'), visible: layers[n].visible, opacity: layers[n].opacity }]));
  const picture = !photo ? '' : photo.file.size < 8e6 ? await asURL(photo.file) : photo.img.toDataURL('image/jpeg', .95);
  const data = letters(KEYWORD + '\0' + JSON.stringify({ version: 1, width: W, height: H, layers: own, photo: picture }));
  const png = new Uint8Array(await (await new Promise(ok => c.toBlob(ok, 'image/png'))).arrayBuffer()), end = png.length - 12;
  const chunk = new Uint8Array(data.length + 12), number = new DataView(chunk.buffer);
  number.setUint32(0, data.length); chunk.set(letters('tEXt'), 4); chunk.set(data, 8);
  number.setUint32(data.length + 8, crc(chunk.subarray(4, data.length + 8)));
  const a = document.createElement('a');
  a.href = URL.createObjectURL(new Blob([png.subarray(0, end), chunk, png.subarray(end)], { type: 'image/png' }));
  a.download = 'drawing.png';
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 60000);
}
// The layers that a PNG of ours carries; null for any other file.
async function inside(file) {
  const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if (head.length < 8 || head[0] !== 137 || head[1] !== 80) return null;
  const all = new Uint8Array(await file.arrayBuffer()), number = new DataView(all.buffer), text = new TextDecoder('latin1');
  for (let i = 8; i + 12 <= all.length; i += 12 + number.getUint32(i)) {
    const n = number.getUint32(i), kind = text.decode(all.subarray(i + 4, i + 8)), start = i + 8 + KEYWORD.length;
    if (kind === 'tEXt' && all[start] === 0 && text.decode(all.subarray(i + 8, start)) === KEYWORD) return JSON.parse(text.decode(all.subarray(start + 1, i + 8 + n)));
  }
  return null;
}
async function reopen(saved) {
  const size = [saved.width, saved.height], looks = saved.layers || {}, given = {};
  if (saved.version !== 1 || !size.every(n => Number.isInteger(n) && n >= 16 && n <= 2048)) throw new Error('sizes');
  for (const n of ORDER) { const png = looks[n] && looks[n].png; if (png) { if (!png.startsWith('data:image/png;base64,')) throw new Error(n); given[n] = png; } }
  if (saved.photo) { if (!saved.photo.startsWith('data:image/')) throw new Error('photo'); given.photo = saved.photo; }
  await load(given, { size, looks });
}

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
    const [w, h] = sides(ratio), old = names.map(n => [layers[n], layers[n].c, empty(layers[n])]), [ow, oh] = [W, H];
    // Nothing that is drawn may fall outside: if it would, the drawing shrinks.
    const out = (c, x0, y0, dw, dh) => dw > 0 && dh > 0 && c.g.getImageData(x0, y0, dw, dh).data.some((v, i) => i % 4 === 3 && v);
    const mx = Math.max(0, Math.ceil((ow - w) / 2)), my = Math.max(0, Math.ceil((oh - h) / 2));
    const cut = old.some(([, c, none]) => !none && (out(c, 0, 0, mx, oh) || out(c, ow - mx, 0, mx, oh) || out(c, 0, 0, ow, my) || out(c, 0, oh - my, ow, my)));
    const k = cut ? Math.min(w / ow, h / oh) : 1;
    resize(w, h);
    const move = k === 1 ? Math.round : v => v;
    for (const [layer, c] of old) { layer.c.g.imageSmoothingQuality = 'high'; layer.c.g.drawImage(c, move((w - ow * k) / 2), move((h - oh * k) / 2), ow * k, oh * k); touch(layer); }
  });
}
async function fromPhoto() {
  const p = photo, b = q('[data-act=fromphoto]'), [w, h] = [W, H];
  if (!p || !p.path || b.disabled) return;
  b.disabled = true; say('Drawing from the photograph …');
  try {
    const got = await server.from_photograph({ path: p.path, coarseness: +q('.coarse').value, width: W, height: H });
    if (got.error) return say(got.error[0].toUpperCase() + got.error.slice(1) + '.');
    const drawn = {};
    for (const n of ['strokes', 'sketch']) if (layers[n]) drawn[n] = await decodeWhole(got[n]);
    if (W !== w || H !== h || stroke) return say('The drawing changed meanwhile; press it again.');
    whole(() => { for (const n in drawn) { const l = layers[n]; l.visible = true; l.c.g.clearRect(0, 0, W, H); l.c.g.drawImage(drawn[n], 0, 0); touch(l); } });
    say('');
  } catch (e) { say(`That did not work: ${(e && e.message) || e}`); } finally { refresh(); }
}
const acts = {
  undo, redo, save, zoomin: () => zoom(1.3), zoomout: () => zoom(1 / 1.3), fit, fromphoto: fromPhoto,
  photo: () => q('.pick-photo').click(), open: () => q('.pick-file').click(),
  new: () => { if (patch) unfloat(); say(''); whole(() => { photo = null; for (const n of names) { layers[n].c.g.clearRect(0, 0, W, H); touch(layers[n]); } }); },
  live: () => { live = !live; refresh(); if (!live) clearTimeout(rest); tell(); },
};
for (const b of all('[data-act]')) b.addEventListener('click', () => { if (!stroke) acts[b.dataset.act](); });
for (const b of all('[data-tool]')) b.addEventListener('click', () => choose(b.dataset.tool));
for (const f of all('input[type=file]')) f.addEventListener('change', () => { take(f.files[0]); f.value = ''; });
q('.size').addEventListener('input', e => { layers[active].size = +e.target.value; refresh(); });
q('.opacity').addEventListener('input', e => { layers[active].ink = +e.target.value; refresh(); });
q('.smoothing').addEventListener('input', e => { smoothing = Math.min(.9, +e.target.value); });
q('.tolerance').addEventListener('input', refresh);
q('.colour').addEventListener('input', e => colour(e.target.value));
q('.shape').addEventListener('change', e => { if (+e.target.value) shape(+e.target.value); });
function swatch(c, title) {
  const b = document.createElement('button');
  b.type = 'button'; b.title = title; b.setAttribute('aria-label', title); b.dataset.c = c; b.style.setProperty('--c', c);
  b.addEventListener('click', () => colour(c));
  return b;
}
q('.recent').before(...FLOWERS.map(f => swatch(...f)));

// ---- the list of layers, the topmost first
const EYE = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2.5 12C6 5.5 18 5.5 21.5 12 18 18.5 6 18.5 2.5 12z"/><circle cx="12" cy="12" r="2.8"/></svg>';
const CROSS = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m7 7 10 10M17 7 7 17"/></svg>';
function button(cls, title, html, act) {
  const b = document.createElement('button');
  b.type = 'button'; b.className = cls; b.title = title; b.setAttribute('aria-label', title); b.innerHTML = html; b.addEventListener('click', act);
  return b;
}
function range(title, low, value, input, change) {
  const r = document.createElement('input');
  Object.assign(r, { type: 'range', min: low, max: 1, step: .01, title }); r.value = value; r.setAttribute('aria-label', title);
  r.addEventListener('input', () => { input(+r.value); paint(); }); r.addEventListener('change', change);
  return r;
}
for (const n of ['mask', 'sketch', 'strokes'].filter(n => layers[n])) {
  const layer = layers[n], row = document.createElement('div');
  row.className = 'layer'; row.dataset.layer = n;
  const eye = button('icon eye', `Show ${LABEL[n]}`, EYE, () => { layer.visible = !layer.visible; refresh(); paint(); tell(); });
  const name = button('name', `Draw on ${LABEL[n]}`, LABEL[n], () => { active = n; refresh(); });
  const clear = button('icon clear', `Clear ${LABEL[n]}`, CROSS, () => { if (!stroke && edit(layer, 0, 0, W, H, g => g.clearRect(0, 0, W, H))) { paint(); tell(); } });
  row.append(eye, name);
  // A mask says how much may change by its own alpha: no opacity of the whole.
  if (n !== 'mask') row.append(range(`Opacity of ${LABEL[n]}`, 0, 1, v => { layer.opacity = v; if (live && performance.now() - lastLive > 120) tellLive(); }, tell));
  row.append(clear);
  q('.layers').append(row);
}
const photoRow = document.createElement('div');
photoRow.className = 'layer photo'; photoRow.dataset.layer = 'photo';
photoRow.append(Object.assign(document.createElement('button'), { type: 'button', className: 'name', textContent: 'Photograph', disabled: true }),
  range('How strongly the photograph is shown', .05, 1, v => { dim = v; }, () => {}),
  button('icon clear', 'Remove the photograph', CROSS, () => { if (!stroke) whole(() => { photo = null; }); }));
q('.layers').append(photoRow);

function refresh() {
  if (over) circle(last);
  const layer = layers[active], draws = tool === 'brush' || tool === 'eraser', mask = active === 'mask';
  for (const b of all('[data-tool]')) b.setAttribute('aria-pressed', b.dataset.tool === tool);
  for (const row of all('.layer')) {
    const l = layers[row.dataset.layer];
    row.classList.toggle('active', row.dataset.layer === active);
    if (!l) continue;
    row.querySelector('.eye').setAttribute('aria-pressed', l.visible);
    row.querySelector('.name').setAttribute('aria-pressed', l.name === active);
    const r = row.querySelector('input');
    if (r) r.value = l.opacity;
  }
  q('.size').value = layer.size; q('.size').nextElementSibling.textContent = layer.size;
  q('.opacity').value = layer.ink; q('.opacity').nextElementSibling.textContent = `${Math.round(layer.ink * 100)}%`;
  q('.tolerance').nextElementSibling.textContent = q('.tolerance').value;
  q('.for-size').hidden = q('.for-smoothing').hidden = !draws;
  q('.for-opacity').hidden = !draws && tool !== 'fill'; q('.for-tolerance').hidden = tool !== 'fill';
  q('.options').hidden = false; q('.colours').style.visibility = mask || tool === 'eraser' ? 'hidden' : '';
  if (!mask) q('.colour').value = layer.colour;
  const row = q('.recent');
  if (row.dataset.of !== recent.join()) { row.dataset.of = recent.join(); row.replaceChildren(...recent.map(c => swatch(c, c))); }
  for (const b of all('.colours button')) b.setAttribute('aria-pressed', b.dataset.c === layer.colour);
  q('[data-act=undo]').disabled = !past.length; q('[data-act=redo]').disabled = !future.length;
  const lb = q('[data-act=live]');
  lb.hidden = !props.live; lb.setAttribute('aria-pressed', live);
  photoRow.hidden = !photo; photoRow.querySelector('.name').textContent = photo && !photo.path ? 'Photograph, coming …' : 'Photograph';
  q('.from').hidden = !photo; q('[data-act=fromphoto]').disabled = !photo || !photo.path;
  const ratio = W / H, fits = [...q('.shape').options].find(o => +o.value && Math.abs(+o.value / ratio - 1) < .01);
  q('.shape').value = fits ? fits.value : '';
  q('.hint').hidden = !!photo || !!stroke || names.some(n => !empty(layers[n]));
}

// ---- keys, paste and drop, only for the canvas that is seen
const KEYS = { b: 'brush', e: 'eraser', g: 'fill', i: 'pick', h: 'hand' };
const field = t => t && t.closest && t.closest('textarea, select, [contenteditable], input:not([type=range]):not([type=checkbox]):not([type=radio]):not([type=button]):not([type=file]):not([type=color])');
document.addEventListener('keydown', e => {
  if (!element.offsetParent || field(e.target)) return;
  const key = e.key.toLowerCase(), command = e.ctrlKey || e.metaKey;
  if (command && !e.altKey && (key === 'z' || key === 'y')) { e.preventDefault(); key === 'y' || e.shiftKey ? redo() : undo(); return; }
  if (command || e.altKey) return;
  if (patch && (key === 'enter' || key === 'escape') && !(e.target.closest && e.target.closest('button'))) { e.preventDefault(); key === 'enter' ? settle() : unfloat(); }
  else if (key === ' ' && (over || e.target === surface)) { e.preventDefault(); spaced = true; surface.dataset.is = 'hand'; circle(null); }
  else if (key === '[' || key === ']') {
    const l = layers[active], by = Math.max(1, Math.round(l.size * .15));
    l.size = clamp(l.size + (key === ']' ? by : -by), 1, 128); refresh();
  } else if (key === 'x' && layers.mask) { layers.mask.visible = !layers.mask.visible; refresh(); paint(); tell(); }
  else if (KEYS[key]) choose(KEYS[key]);
});
document.addEventListener('keyup', e => { if (e.key === ' ' && spaced) { spaced = false; choose(tool); } });
window.addEventListener('blur', () => { if (spaced) { spaced = false; choose(tool); } });
document.addEventListener('paste', e => {
  const data = e.clipboardData, files = [...(data ? data.files : [])].filter(f => f.type.startsWith('image/'));
  if (!files.length || !element.offsetParent || (field(e.target) && [...data.types].includes('text/plain'))) return;
  e.preventDefault(); take(files[0]);
});
element.addEventListener('dragover', e => { e.preventDefault(); surface.classList.add('over'); });
element.addEventListener('dragleave', e => { if (!element.contains(e.relatedTarget)) surface.classList.remove('over'); });
element.addEventListener('drop', e => {
  e.preventDefault(); surface.classList.remove('over');
  if (e.dataTransfer.files.length) take(e.dataTransfer.files[0]); else say('That was no file: save the picture first, then drop it.');
});
// A file let go beside the box would open in the place of the studio.
for (const kind of ['dragover', 'drop']) document.addEventListener(kind, e => { if ([...e.dataTransfer.types].includes('Files')) e.preventDefault(); });

choose('brush'); fit();
element.dataset.ready = '1';
