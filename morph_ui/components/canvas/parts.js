// ---- what belongs together in a picture. Parts of about one colour (Felzenszwalb & Huttenlocher 2004, graph-based segmentation)
// are what is chosen from. What lies at the rim is the ground, the rest are figures: a least cut between what looks like the one
// and like the other, again until nothing changes (GrabCut, Rother et al. 2004, with kernel densities of the parts' colours).
const PART = { coarse: .15, least: 12, near: 10, unsure: 1e-5, sure: .35, edge: 6, fall: .012, rounds: 6 };  // by eye and IoU over 16 photographs
function labOf(d, n) {
  const out = new Float32Array(3 * n), f = t => t > .008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
  const flat = Float32Array.from({ length: 256 }, (_, v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  for (let i = 0; i < n; i++) {
    const r = flat[d[4 * i]], g = flat[d[4 * i + 1]], b = flat[d[4 * i + 2]];
    const x = f(.4339 * r + .3762 * g + .1899 * b), y = f(.2126 * r + .7152 * g + .0722 * b), z = f(.0177 * r + .1095 * g + .8729 * b);
    out[3 * i] = 116 * y - 16; out[3 * i + 1] = 500 * (x - y); out[3 * i + 2] = 200 * (y - z);
  }
  return out;
}
// RGBA (4·w·h) → the parts: `of` says for every pixel to which of the `count` it belongs; `links` are pairs of neighbours with the
// sum over their border of e^(−fall ΔE²); `alike` (count²) how near their mean colours are, 0 … 1.
function partsOf(d, w, h) {
  const n = w * h, c = labOf(d, n), E = 2 * n, far = new Float32Array(E), start = new Int32Array(1026), order = new Int32Array(E);
  for (let i = 0; i < n; i++) for (let k = 0; k < 2; k++) {  // edge 2i goes to the right, 2i + 1 down
    const j = i + (k ? w : 1), e = 2 * i + k;
    if (k ? j >= n : j % w === 0) { far[e] = -1; start[1025]++; continue; }
    far[e] = Math.sqrt((c[3 * i] - c[3 * j]) ** 2 + (c[3 * i + 1] - c[3 * j + 1]) ** 2 + (c[3 * i + 2] - c[3 * j + 2]) ** 2);
    start[Math.min(1023, far[e] * 8 | 0) + 1]++;
  }
  const m = E - start[1025];
  for (let k = 0; k < 1024; k++) start[k + 1] += start[k];
  for (let e = 0; e < E; e++) if (far[e] >= 0) order[start[Math.min(1023, far[e] * 8 | 0)]++] = e;
  const up = Int32Array.from({ length: n }, (_, i) => i), size = new Int32Array(n).fill(1), most = new Float32Array(n);
  const root = i => { while (up[i] !== i) i = up[i] = up[up[i]]; return i; }, C = PART.coarse * Math.sqrt(n), least = PART.least * n / 65536;
  const other = e => (e >> 1) + (e & 1 ? w : 1);
  for (const rest of [false, true]) for (let k = 0; k < m; k++) {
    const e = order[k], a = root(e >> 1), b = root(other(e));
    if (a === b || !(rest ? size[a] < least || size[b] < least : far[e] <= Math.min(most[a] + C / size[a], most[b] + C / size[b]))) continue;
    up[b] = a; size[a] += size[b];
    if (!rest) most[a] = far[e];
  }
  const of = new Int32Array(n), number = new Int32Array(n).fill(-1);
  let count = 0;
  for (let i = 0; i < n; i++) { const r = root(i); if (number[r] < 0) number[r] = count++; of[i] = number[r]; }
  const area = new Float32Array(count), mean = new Float32Array(3 * count), at = new Float32Array(2 * count), rim = new Float32Array(count), corner = new Float32Array(count), near = .1 * Math.min(w, h);
  for (let i = 0; i < n; i++) {
    const s = of[i], x = i % w, y = (i - x) / w;
    area[s]++; for (let k = 0; k < 3; k++) mean[3 * s + k] += c[3 * i + k];
    at[2 * s] += x; at[2 * s + 1] += y; if (!x || !y || x === w - 1 || y === h - 1) rim[s]++;
    if (Math.min(x, w - 1 - x) < near && Math.min(y, h - 1 - y) < near) corner[s]++;
  }
  for (let s = 0; s < count; s++) { for (let k = 0; k < 3; k++) mean[3 * s + k] /= area[s]; at[2 * s] /= area[s]; at[2 * s + 1] /= area[s]; }
  const met = new Map(), links = [], next = Array.from({ length: count }, () => []);
  for (let e = 0; e < E; e++) {
    if (far[e] < 0) continue;
    const a = of[e >> 1], b = of[other(e)];
    if (a === b) continue;
    const key = Math.min(a, b) * count + Math.max(a, b);
    let l = met.get(key);
    if (!l) { links.push(l = [a, b, 0]); met.set(key, l); next[a].push(b); next[b].push(a); }
    l[2] += Math.exp(-PART.fall * far[e] ** 2);
  }
  const alike = new Float32Array(count * count), u = -.5 / PART.near ** 2;
  for (let a = 0; a < count; a++) for (let b = a; b < count; b++) alike[a * count + b] = alike[b * count + a]
    = Math.exp(u * (.6 * (mean[3 * a] - mean[3 * b]) ** 2 + (mean[3 * a + 1] - mean[3 * b + 1]) ** 2 + (mean[3 * a + 2] - mean[3 * b + 2]) ** 2));
  return { w, h, of, count, area, at, rim, corner, links, next, alike };
}
// The least cut (Dinic 1970): 1 for what stays with the source. `pull` > 0 draws a part to it, < 0 away.
function leastCut(pull, links) {
  const N = pull.length, S = N, Z = N + 1, head = new Int32Array(N + 2).fill(-1), next = [], to = [], room = [];
  const add = (a, b, there, back) => { next.push(head[a], head[b]); head[a] = to.length; head[b] = to.length + 1; to.push(b, a); room.push(there, back); };
  for (let i = 0; i < N; i++) pull[i] > 0 ? add(S, i, pull[i], 0) : add(i, Z, -pull[i], 0);
  for (const [a, b, c] of links) add(a, b, PART.edge * c, PART.edge * c);
  const level = new Int32Array(N + 2), now = new Int32Array(N + 2), NONE = 1e-6;
  function reach() {
    level.fill(-1); level[S] = 0;
    const queue = [S];
    for (const u of queue) for (let e = head[u]; e >= 0; e = next[e]) if (room[e] > NONE && level[to[e]] < 0) { level[to[e]] = level[u] + 1; queue.push(to[e]); }
    return level[Z] >= 0;
  }
  function push(u, most) {
    if (u === Z) return most;
    let sent = 0;
    for (; now[u] >= 0; now[u] = next[now[u]]) {
      const e = now[u], v = to[e];
      if (room[e] <= NONE || level[v] !== level[u] + 1) continue;
      const got = push(v, Math.min(most - sent, room[e]));
      room[e] -= got; room[e ^ 1] += got; sent += got;
      if (most - sent <= NONE) break;
    }
    return sent;
  }
  while (reach()) { now.set(head); push(S, 1e12); }
  return Uint8Array.from(level.subarray(0, N), l => l >= 0 ? 1 : 0);
}
// How much better each part fits what is in `F` than the rest: log of the ratio of the two densities of colour.
function fits(P, F, area = P.area) {
  const { count, alike } = P, all = [0, 0];
  for (let i = 0; i < count; i++) all[F[i]] += area[i];
  return Float32Array.from(area, (_, i) => {
    const sum = [0, 0];
    for (let j = 0, k = i * count; j < count; j++, k++) sum[F[j]] += alike[k] * area[j];
    return Math.log((sum[1] / (all[1] || 1) + PART.unsure) / (sum[0] / (all[0] || 1) + PART.unsure));
  });
}
// `F`, by turns with the least cut that its colours give; `seed` stays in it. `weight`: how much each part counts at first.
function cutFrom(P, F, seed = -1, weight = P.area) {
  for (let round = 0; round < PART.rounds; round++) {
    const pull = fits(P, F, round ? P.area : weight).map((v, i) => PART.sure * P.area[i] * clamp(v, -4, 4));
    if (seed >= 0) pull[seed] = 1e9;
    const G = leastCut(pull, P.links);
    if (G.every((v, i) => v === F[i])) break;
    F = G;
  }
  return F;
}
// The piece of `F` in which a part lies; what it encloses is of it, up to such a share of its area.
function piece(P, F, s, holes = .12) {
  const spread = (from, goes) => { const found = [from]; seen[from] = 1; for (const a of found) for (const b of P.next[a]) if (!seen[b] && goes(b)) { seen[b] = 1; found.push(b); } return found; };
  const seen = new Uint8Array(P.count), G = new Uint8Array(P.count), sum = list => list.reduce((t, i) => t + P.area[i], 0), own = spread(s, b => F[b]);
  for (const i of own) G[i] = 1;
  for (let i = 0; i < P.count; i++) if (!seen[i]) { const hole = spread(i, b => !G[b]); if (!hole.some(k => P.rim[k]) && sum(hole) < holes * sum(own)) for (const k of hole) G[k] = 1; }
  return G;
}
// The ground: what looks like the `rim` of the picture, or its corners, of which each part counts as much as it has of it.
const groundOf = (P, rim) => cutFrom(P, Uint8Array.from(rim, v => v ? 1 : 0), -1, P.area.map((a, i) => rim[i] || a));
