// ---- the screen
let view = { k: 1, x: 0, y: 0 }, fitted = true, queued = 0, wide = 0, high = 0;
function fit() {
  wide = surface.clientWidth; high = surface.clientHeight;
  if (!wide) return;
  const k = Math.min(wide / W, high / H);
  view = { k, x: (wide - W * k) / 2, y: (high - H * k) / 2 }; fitted = true; paint();
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
  compose(g, dim, true); g.restore();
  ants(g, 1 / view.k);
  if (cross) Object.assign(q('.cross').style, { left: `${view.x + cross.x * view.k}px`, top: `${view.y + cross.y * view.k}px` });
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
