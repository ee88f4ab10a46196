// ---- what is done to a mask as a whole: turned round, grown, shrunk, feathered
let edging = null;  // while one of its sliders moves: the mask as it was
function veilOf(alpha) {
  const out = new ImageData(W, H), paint = [1, 3, 5].map(i => parseInt(VEIL.slice(i, i + 2), 16));
  for (let i = 0; i < alpha.length; i++) { out.data.set(paint, 4 * i); out.data[4 * i + 3] = alpha[i]; }
  return out;
}
const alphaOf = layer => Float32Array.from({ length: W * H }, ((d, _, i) => d[4 * i + 3]).bind(null, layer.c.g.getImageData(0, 0, W, H).data));
function invert() {
  const layer = layers.mask;
  if (stroke || edging || !layer) return;
  if (falsified) return say(NOISY);
  const alpha = alphaOf(layer).map(a => 255 - a);
  layer.visible = true;
  if (edit(layer, 0, 0, W, H, g => g.putImageData(veilOf(alpha), 0, 0))) { refresh(); paint(); tell(); }
}
// How far every place is from the nearest one that is `on`, in pixels (Felzenszwalb & Huttenlocher 2012, distance transforms).
function distances(on) {
  const d = Float64Array.from(on, v => v ? 0 : 1e12), n = Math.max(W, H), f = new Float64Array(n), low = new Int32Array(n), from = new Float64Array(n + 1);
  const pass = (start, stride, n) => {
    let k = 0, s = 0;
    for (let i = 0; i < n; i++) f[i] = d[start + i * stride];
    low[0] = 0; from[0] = -Infinity; from[1] = Infinity;
    for (let q = 1; q < n; q++) {
      while ((s = (f[q] + q * q - f[low[k]] - low[k] * low[k]) / (2 * (q - low[k]))) <= from[k]) k--;
      low[++k] = q; from[k] = s; from[k + 1] = Infinity;
    }
    k = 0;
    for (let i = 0; i < n; i++) { while (from[k + 1] < i) k++; d[start + i * stride] = f[low[k]] + (i - low[k]) ** 2; }
  };
  for (let x = 0; x < W; x++) pass(x, W, H);
  for (let y = 0; y < H; y++) pass(y * W, 1, W);
  return Float32Array.from(d, Math.sqrt);
}
// Grown by so many pixels (< 0: shrunk). What is soft stays soft: each of its heights grows by itself.
const HEIGHTS = 16;
function grownBy(base, by) {
  const most = base.alpha.reduce((m, a) => Math.max(m, a), 0), key = by > 0 ? 'out' : 'in', soft = base.alpha.reduce((n, a) => n + (a > .06 * most && a < .94 * most), 0), whole = base.alpha.reduce((n, a) => n + (a > 0), 0);
  const heights = soft > .12 * whole ? HEIGHTS : 1;
  base[key] ||= Array.from({ length: heights }, (_, k) => distances(base.alpha.map(a => (a > (k + .5) / heights * most) === by > 0)));
  const out = new Float32Array(W * H);
  for (const far of base[key]) for (let i = 0; i < out.length; i++) out[i] += most / heights * clamp(by > 0 ? by + 1 - far[i] : far[i] + by, 0, 1);
  return out;
}
// Three box blurs, which are nearly a bell of σ = by / 2.
function feathered(base, by) {
  const r = Math.max(1, Math.round((Math.sqrt(by * by + 1) - 1) / 2)), line = new Float32Array(Math.max(W, H) + 2 * r), out = base.alpha.slice();
  const pass = (start, stride, n) => {
    for (let i = -r; i < n + r; i++) line[i + r] = out[start + clamp(i, 0, n - 1) * stride];
    let sum = 0;
    for (let i = 0; i < 2 * r; i++) sum += line[i];
    for (let i = 0; i < n; i++) { sum += line[i + 2 * r]; out[start + i * stride] = sum / (2 * r + 1); sum -= line[i]; }
  };
  for (let k = 0; k < 3; k++) { for (let x = 0; x < W; x++) pass(x, W, H); for (let y = 0; y < H; y++) pass(y * W, 1, W); }
  return out;
}
// A slider shows what it does while it is moved; let go, it is one step of undo and stands at nothing again.
function edge(change, by) {
  const layer = layers.mask;
  if (falsified) return say(NOISY);
  if (stroke || (!edging && empty(layer))) return;
  if (!layer.visible) { layer.visible = true; refresh(); }
  edging ||= { alpha: alphaOf(layer), before: grab(layer, 0, 0, W, H) };
  const alpha = by ? change(edging, by) : edging.alpha;
  edging.after = veilOf(alpha);
  layer.c.g.putImageData(edging.after, 0, 0); touch(layer); paint(); soon();
}
function edgeDone() {
  if (!edging) return;
  const { before, after } = edging, layer = layers.mask;
  edging = null; put(layer, before, 0, 0);
  if (edit(layer, 0, 0, W, H, g => g.putImageData(after, 0, 0))) tell();
  refresh(); paint();
}
for (const [name, change, text] of [['.grow', grownBy, v => `${v > 0 ? '+' : ''}${v}`], ['.feather', feathered, v => `${v}`]]) {
  const input = q(name), end = () => { edgeDone(); input.value = 0; input.nextElementSibling.textContent = text(0); };
  input.addEventListener('input', () => { input.nextElementSibling.textContent = text(+input.value); edge(change, +input.value); });
  for (const kind of ['change', 'blur', 'pointercancel']) input.addEventListener(kind, end);
  input.addEventListener('pointerup', () => setTimeout(end));
}
