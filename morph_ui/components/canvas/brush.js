// ---- strokes
let stroke = null;
function begin(e, erase) {
  const layer = layers[active], p = at(e);
  if (!layer.visible) { layer.visible = true; refresh(); say(`${LABEL[active]} was hidden; it is shown again.`); }
  stroke = { id: e.pointerId, type: e.pointerType, layer, erase, ink: layer.ink, x: p.x, y: p.y, since: e.timeStamp, box: [W, H, 0, 0] };
  stroke.a = stroke.m = stroke.end = { ...p, w: width(e) };
  const g = buffer.g;
  g.lineCap = g.lineJoin = 'round'; g.strokeStyle = g.fillStyle = erase ? '#000' : layer.colour;
  g.beginPath(); g.arc(p.x, p.y, stroke.a.w / 2, 0, 7); g.fill();
  q('.hint').hidden = true;  if (!line.childElementCount) say('');
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
    g.lineWidth = p.w + (n.w - p.w) * t; g.beginPath(); g.moveTo(x, y); g.lineTo(nx, ny); g.stroke(); x = nx; y = ny;
  }
}
function wipe() { buffer.g.clearRect(0, 0, W, H); stroke = null; paint(); }
function finish() {
  const s = stroke;
  segment(s.end); curve(s.m, s.a, s.a);
  const changed = edit(s.layer, ...s.box, (g, x, y, w, h) => {
    g.save(); g.globalCompositeOperation = s.erase ? 'destination-out' : 'source-over'; g.globalAlpha = s.ink;
    g.drawImage(buffer, x, y, w, h, x, y, w, h); g.restore();
  });
  wipe();
  if (changed && !s.erase && s.layer.name !== 'mask') remember(s.layer.colour);
  tell();
}
// A second finger, or a pen after the palm of its hand, means that the first did not want to draw, unless it has drawn
// (a palm: unless it went far): that stays, and can be undone.
// By the time when the hand did it, not when a busy page heard of it.
function takeBack(e, palm = false) {
  if (!stroke) return;
  const b = stroke.box, far = Math.hypot(b[2] - b[0], b[3] - b[1]) > 48 + 2 * stroke.layer.size;
  if (far || (!palm && e.timeStamp - stroke.since > 500)) finish(); else { wipe(); tell(); }
}

// ---- fill and pick, both of what is seen
function whereOn(p) { const x = Math.floor(p.x), y = Math.floor(p.y); return x < 0 || y < 0 || x >= W || y >= H ? [-1, -1] : [x, y]; }
function seen() { const c = blank(); compose(c.g, dim, false); return c.g.getImageData(0, 0, W, H).data; }
function fill(p, out = false) {
  const [x, y] = whereOn(p), layer = layers[active];
  if (x < 0) return;
  if (!layer.visible) { layer.visible = true; refresh(); }
  const d = seen(), tolerance = +q('.tolerance').value, inside = new Uint8Array(W * H), stack = [y * W + x], o = stack[0] * 4, [r, gr, b] = [d[o], d[o + 1], d[o + 2]];
  const near = i => !inside[i] && Math.abs(d[4 * i] - r) <= tolerance && Math.abs(d[4 * i + 1] - gr) <= tolerance && Math.abs(d[4 * i + 2] - b) <= tolerance;
  while (stack.length) {
    const i = stack.pop(), x = i % W;
    if (!near(i)) continue;
    inside[i] = 1;
    if (x) stack.push(i - 1);  if (x < W - 1) stack.push(i + 1);
    if (i >= W) stack.push(i - W);  if (i < W * (H - 1)) stack.push(i + W);
  }
  // One pixel more, under the soft edge of the lines, so that no light seam stays.
  const [cr, cg, cb] = [1, 3, 5].map(i => parseInt(layer.colour.slice(i, i + 2), 16)), flat = new ImageData(W, H);
  for (let j = 0; j < H; j++) for (let i = 0; i < W; i++) {
    const k = j * W + i;
    if (inside[k] || (i && inside[k - 1]) || (i < W - 1 && inside[k + 1]) || (j && inside[k - W]) || (j < H - 1 && inside[k + W])) flat.data.set([cr, cg, cb, 255], 4 * k);
  }
  const c = blank();
  c.g.putImageData(flat, 0, 0);
  if (edit(layer, 0, 0, W, H, g => { g.save(); if (out) g.globalCompositeOperation = 'destination-out'; else g.globalAlpha = layer.ink; g.drawImage(c, 0, 0); g.restore(); })) { if (active !== 'mask' && !out) remember(layer.colour); paint(); tell(); }
}
function pick(p) {
  const [x, y] = whereOn(p);
  if (x < 0 || active === 'mask') return;
  const c = blank(1, 1);
  c.g.translate(-x, -y); compose(c.g, dim, false);
  colour('#' + [...c.g.getImageData(0, 0, 1, 1).data.slice(0, 3)].map(v => v.toString(16).padStart(2, '0')).join(''));
}

// ---- pointers. Once a pen was seen, a finger never draws: it moves the view. Two fingers always do.
const fingers = new Map();
let penSeen = false, act = null, pinch = null, spaced = false, over = false;  // act: what the pointer that is down does
function spread() { const [a, b] = [...fingers.values()]; return { d: Math.hypot(a.x - b.x, a.y - b.y) || 1, x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }; }
function drags(e) { let from = place(e); return { pans: true, move: e => { const p = place(e); pan(p.x - from.x, p.y - from.y); from = p; } }; }
function draw(e) {
  if (!stroke) return;
  const between = e.getCoalescedEvents ? e.getCoalescedEvents() : [];
  for (const c of between.length ? between : [e]) extend(c);
  paint(); soon();
}
surface.addEventListener('pointerdown', e => {
  if (e.target.closest('button')) return;
  edgeDone(); uncross();
  const finger = e.pointerType === 'touch', pen = e.pointerType === 'pen';
  if (pen) penSeen = true;
  e.preventDefault(); surface.focus({ preventScroll: true });
  try { surface.setPointerCapture(e.pointerId); } catch { /* it is gone already */ }
  if (finger) {
    fingers.set(e.pointerId, place(e));
    if (stroke && stroke.type !== 'touch') return;  // the palm of the hand that holds the pen
    if (fingers.size > 1) { takeBack(e); act?.drop?.(); act = null; pinch = fingers.size === 2 ? spread() : { idle: true }; return; }
  } else if (pen && act && fingers.has(act.id)) { takeBack(e, true); act.drop?.(); act = null; } else if (act) return;
  if (pen) pinch = null;
  if (pinch || e.button === 2) return;
  const p = at(e), held = e.button === 1 || spaced || tool === 'hand', grip = patch && !held && grasp(p);
  if (grip) act = { move: e => pull(grip, at(e)) };
  else if (held || patch || (finger && penSeen)) act = drags(e);
  else if (tool === 'pick' || (e.altKey && tool === 'brush')) { act = { move: e => pick(at(e)) }; pick(p); }
  else if (tool === 'fill') act = { end: f => { if (f.type === 'pointerup') fill(p, e.altKey); } };
  else if (tool === 'select') { const way = how(e); act = { end: e => { if (e.type === 'pointerup') select(p, way); } }; }
  else if (tool === 'lasso') { wake(); act = rope(e); }
  else { wake(); begin(e, tool === 'eraser' || !!(e.buttons & 32)); act = { move: draw, end: () => { if (stroke) finish(); } }; }
  act.id = e.pointerId;
});
surface.addEventListener('pointermove', e => {
  over = true; circle(e);
  if (e.pointerType === 'pen') penSeen = true;  // it hovers before the hand lies down
  if (fingers.has(e.pointerId)) fingers.set(e.pointerId, place(e));
  if (pinch && fingers.size === 2 && !pinch.idle) {
    const now = spread();
    pan(now.x - pinch.x, now.y - pinch.y); zoom(now.d / pinch.d, now.x, now.y);
    pinch = now;
  } else if (!pinch && act && act.id === e.pointerId && act.move) act.move(e);
});
// A cancelled pointer ends its stroke like a lifted one: what was drawn stays.
function lift(e) {
  if (act && act.id === e.pointerId) { const { end } = act; act = null; if (end) end(e); }
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
