// ---- a part of what is seen becomes the mask by a click, anything by a line around it
const SIGHT = 256, REACH = [.05, .09, .15, .23, .34], CLEARER = .1, CORNERS = .01, SPECK = .002;  // pixels looked at; discs, of the longer side; when a disc is the better guess
let parted = null, chosen = null, mode = 'new', lasso = null;
// What is seen cut into parts, small; kept until the drawing changes.
function parts() {
  const seen = names.filter(n => n !== 'mask').map(n => layers[n]).map(l => [l.version, l.visible, l.opacity]), key = [W, H, photo?.url, ...seen].join();
  if (parted?.key === key) return parted;
  const k = Math.min(1, SIGHT / Math.max(W, H)), c = blank(Math.max(1, Math.round(W * k)), Math.max(1, Math.round(H * k)));
  c.g.scale(c.width / W, c.height / H); compose(c.g, 1, false);
  const P = partsOf(c.g.getImageData(0, 0, c.width, c.height).data, c.width, c.height);
  return parted = { ...P, key, grounds: [groundOf(P, P.rim), groundOf(P, P.corner)] };
}
// How well colour alone tells what is in `F` from the rest: .5 not at all … 1.
function clearness(P, F) {
  const fit = fits(P, F), sum = [0, 0], all = [0, 0];
  fit.forEach((v, i) => { all[F[i]] += P.area[i]; sum[F[i]] += P.area[i] / (1 + Math.exp(F[i] ? -v : v)); });
  return (sum[0] / (all[0] || 1) + sum[1] / (all[1] || 1)) / 2;
}
// What a click on a part may mean, from small to large, and which of it is likeliest.
function choices(P, x, y) {
  const s = P.of[y * P.w + x], { rim } = P, long = Math.max(P.w, P.h);
  const owns = P.grounds.map(ground => {
    const own = ground[s] ? piece(P, ground, s, SPECK) : piece(P, ground.map(v => 1 - v), s);
    // A ground that reaches the rim is one, however figures part it.
    if (ground[s] && own.some((v, i) => v && rim[i])) for (let i = 0; i < P.count; i++) if (rim[i] && ground[i] && !own[i]) piece(P, ground, i, SPECK).forEach((v, j) => { own[j] |= v; });
    return own;
  });
  const near = REACH.map(r => piece(P, cutFrom(P, Uint8Array.from(P.area, (_, i) => i === s || Math.hypot(P.at[2 * i] - x, P.at[2 * i + 1] - y) < r * long ? 1 : 0), s), s));
  const by = near.map(F => clearness(P, F)), best = Math.max(...by), [rims, corners] = owns.map(F => clearness(P, F));
  // What reaches the rim itself is found by the corners: nearly as clear, and larger, is enough.
  const wider = !P.grounds[1][s] && owns[0].every((v, i) => v <= owns[1][i]), own = corners > rims + (wider ? -5 : 1) * CORNERS ? owns[1] : owns[0];
  const likeliest = !P.grounds[0][s] && best > Math.max(rims, corners) + CLEARER ? near[by.lastIndexOf(best)] : own;
  const size = F => F.reduce((t, v, i) => t + v * P.area[i], 0), list = [];
  const colour = piece(P, Uint8Array.from(P.area, (_, i) => P.alike[s * P.count + i] > .5 ? 1 : 0), s, SPECK);
  for (const F of [likeliest, ...owns, ...near, colour]) if (!list.some(G => F.reduce((t, v, i) => t + (v !== G[i]) * P.area[i], 0) < .02 * size(G))) list.push(F);
  list.sort((a, b) => size(a) - size(b));
  return { list, at: list.indexOf(likeliest) };
}
// Parts → a mask of the document's size. Along the edge each pixel is as much inside as its colour is nearer to the colours there.
const BAND = 3, AROUND = 7;
function outlined(P, F) {
  const inside = new Uint8Array(W * H), band = new Uint8Array(W * H), out = new ImageData(W, H), c = blank(), paint = [1, 3, 5].map(i => parseInt(VEIL.slice(i, i + 2), 16));
  compose(c.g, 1, false);
  const d = c.g.getImageData(0, 0, W, H).data, col = Int32Array.from({ length: W }, (_, x) => Math.min(P.w - 1, Math.floor(x * P.w / W)));
  for (let y = 0, i = 0; y < H; y++) { const row = Math.min(P.h - 1, Math.floor(y * P.h / H)) * P.w; for (let x = 0; x < W; x++, i++) inside[i] = F[P.of[row + col[x]]]; }
  const about = (i, r, see) => { const x = i % W, y = (i - x) / W; for (let v = Math.max(0, y - r); v <= Math.min(H - 1, y + r); v++) for (let u = Math.max(0, x - r); u <= Math.min(W - 1, x + r); u++) see(v * W + u); };
  for (let i = 0; i < W * H; i++) if ((i % W < W - 1 && inside[i] !== inside[i + 1]) || (i < W * (H - 1) && inside[i] !== inside[i + W])) about(i, BAND, j => { band[j] = 1; });
  const sum = [new Float64Array(4), new Float64Array(4)];
  for (let i = 0; i < W * H; i++) {
    let a = inside[i];
    if (band[i]) {
      let near = 0, all = 0, t = 0, wide = 0;
      sum[0].fill(0); sum[1].fill(0);
      about(i, AROUND, j => { if (!band[j]) { const s = sum[inside[j]]; s[3]++; for (let k = 0; k < 3; k++) s[k] += d[4 * j + k]; } });
      about(i, 2, j => { near += inside[j]; all++; });
      const [o, f] = sum;
      for (let k = 0; k < 3 && o[3] && f[3]; k++) { const g = o[k] / o[3], to = f[k] / f[3] - g; t += (d[4 * i + k] - g) * to; wide += to * to; }
      a = wide > 400 ? clamp((t / wide - .5) * 1.5 + .5 + (near / all - .5) * .3, 0, 1) : near / all;
    }
    out.data.set(paint, 4 * i); out.data[4 * i + 3] = Math.round(255 * a);
  }
  c.g.putImageData(out, 0, 0);
  return c;
}
// A shape into a layer: instead of what is there ("new", masks only), beside it ("add"), or out of it ("sub").
function lay(layer, shape, how) {
  layer.visible = true;
  return edit(layer, 0, 0, W, H, g => {
    g.save();
    if (how === 'new') g.clearRect(0, 0, W, H);
    g.globalCompositeOperation = how === 'sub' ? 'destination-out' : 'source-over'; g.globalAlpha = how === 'sub' ? 1 : layer.ink;
    g.drawImage(shape, 0, 0); g.restore();
  });
}
const how = e => e.altKey ? 'sub' : e.shiftKey ? 'add' : mode;
const NOISY = 'This browser alters what is read from a canvas; allow it for this page first.';
function select(p, way) {
  const [x, y] = whereOn(p);
  if (x < 0 || !layers.mask) return;
  if (falsified) return say(NOISY);
  const P = parts(), at = Math.floor(x * P.w / W), row = Math.floor(y * P.h / H);
  chosen = { P, way, ...choices(P, at, row) };
  take_in(); say('');
}
function take_in() {
  chosen.changed = lay(layers.mask, outlined(chosen.P, chosen.list[chosen.at]), chosen.way);
  chosen.after = past[past.length - 1];
  refresh(); paint(); tell();
}
// The same click meant less, or more: in the place of what it gave.
const choosing = () => chosen && past[past.length - 1] === chosen.after;
function reach(by) {
  const to = chosen ? chosen.at + by : -1;
  if (!choosing() || !chosen.list[to]) return;
  if (chosen.changed) past.pop().undo();
  chosen.at = to; take_in();
}
// ---- the lasso: what the line encloses is filled
function rope(e) {
  lasso = { way: active === 'mask' ? how(e) : e.altKey ? 'sub' : 'add', points: [at(e)] };
  return { move: e => { const between = e.getCoalescedEvents?.() || []; for (const c of between.length ? between : [e]) lasso.points.push(at(c)); paint(); }, end: enclose, drop: () => { lasso = null; paint(); } };
}
function lassoPath() { const path = new Path2D(); for (const p of lasso.points) path.lineTo(p.x, p.y); return path; }
function enclose() {
  if (!lasso) return;
  const layer = layers[active], path = lassoPath(), { way, points } = lasso, c = blank();
  lasso = null; path.closePath();
  c.g.fillStyle = layer.colour; c.g.fill(path);
  if (points.length > 2 && lay(layer, c, way)) { if (active !== 'mask' && way !== 'sub') remember(layer.colour); refresh(); tell(); }
  paint();
}

// ---- the mask's edge on screen: stripes that wander
const calm = matchMedia('(prefers-reduced-motion: reduce)'), stripes = (() => {
  const c = blank(8, 8);
  for (let y = 0; y < 8; y++) for (let x = 0; x < 8; x++) { c.g.fillStyle = (x + y) % 8 < 4 ? '#fff' : '#222'; c.g.fillRect(x, y, 1, 1); }
  return pen2d.createPattern(c, 'repeat');
})();
let edged = null;
function edgeOf(layer) {
  if (edged?.of === layer.c && edged.version === layer.version) return edged.path;
  const path = new Path2D(), d = layer.c.g.getImageData(0, 0, W, H).data, on = (x, y) => x >= 0 && y >= 0 && x < W && y < H && d[4 * (y * W + x) + 3] > 127;
  const runs = (lines, along, differs, draw) => { for (let v = 0; v <= lines; v++) for (let u = 0, from = -1; u <= along; u++) { const edge = u < along && differs(u, v); if (edge && from < 0) from = u; if (!edge && from >= 0) { draw(from, u, v); from = -1; } } };
  runs(H, W, (x, y) => on(x, y) !== on(x, y - 1), (a, b, y) => { path.moveTo(a, y); path.lineTo(b, y); });
  runs(W, H, (y, x) => on(x, y) !== on(x - 1, y), (a, b, x) => { path.moveTo(x, a); path.lineTo(x, b); });
  edged = { of: layer.c, version: layer.version, path };
  return path;
}
const edgeSeen = () => !falsified && active === 'mask' && layers.mask.visible && !stroke && !empty(layers.mask);
function ants(g, unit) {
  const step = calm.matches ? 0 : Math.floor(performance.now() / 125) % 8;
  stripes.setTransform(new DOMMatrix([unit, 0, 0, unit, step * unit, 0]));
  g.save(); g.strokeStyle = stripes; g.lineWidth = 1.5 * unit; g.lineCap = 'square';
  if (edgeSeen()) g.stroke(edgeOf(layers.mask));
  if (lasso) g.stroke(lassoPath());
  g.restore();
}
setInterval(() => { if (!calm.matches && element.offsetParent && !document.hidden && edgeSeen()) paint(); }, 125);
