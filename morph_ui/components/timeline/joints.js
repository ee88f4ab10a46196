// Ways from one picture to the next: their points, their seeds, and the chips that stand for them. What a way has is kept by
// its two pictures, so it is there again when they are neighbours again; turned round, its points are turned round.
const more = !!OWN.pair;  // From and To stand before the pictures of the timeline
let lead = more ? [{ id: '', path: '' }, { id: '', path: '' }] : [], loop = false;
let kept = { points: {}, seeds: {}, of: null, holds: {}, times: {} }, loaded = null;
const stops = () => [...lead, ...items];
const nameOf = k => more && k < 2 ? ['From', 'To'][k] : `picture ${k + 1}`, short = k => more && k < 2 ? ['From', 'To'][k] : `${k + 1}`;
function ways() {
  const all = stops(), out = all.slice(1).map((b, k) => [all[k], b, k, k + 1]);
  return loop && all.length > 1 ? [...out, [all[all.length - 1], all[0], all.length - 1, 0]] : out;
}
const keyOf = ([a, b]) => a.id && b.id ? `${a.id}>${b.id}` : '';
function pointsOf(way) {
  const key = keyOf(way), back = `${way[1].id}>${way[0].id}`;
  if (key && !kept.points[key] && kept.points[back]?.length && !ways().some(w => keyOf(w) === back)) {
    kept.points[key] = kept.points[back].map(([x0, y0, x1, y1]) => [x1, y1, x0, y0]); delete kept.points[back];
  }
  return kept.points[key] || [];
}
// What files say of pictures and ways, as soon as the pictures are there.
function arrive() {
  if (!loaded) return;
  const own = (list, k) => String(list[list.length > 1 ? k : 0] ?? '');
  stops().forEach((stop, i) => {
    if (!stop.id || !stop.path || loaded.held[i]) return;
    loaded.held[i] = true; kept.holds[stop.id] = own(loaded.holds, i);
  });
  ways().forEach((way, k) => {
    const key = keyOf(way);
    if (!key || !way[0].path || !way[1].path || loaded.there[k]) return;
    loaded.there[k] = true; kept.points[key] = loaded.points[k] || [];
    kept.times[key] = own(loaded.times, k); kept.of = loaded.seeds.of ?? null; kept.seeds[key] = loaded.seeds.ways?.[k] ?? null;
  });
}
// A way was made again: its seed counts as long as the one of the whole, ``of``, is what it was.
function reseed({ of, ways: own }) { kept.of = of; ways().forEach((way, k) => { if (keyOf(way)) kept.seeds[keyOf(way)] = own[k] ?? null; }); }
const many = n => `${n} point${n === 1 ? '' : 's'}`;
const counted = () => ways().reduce((n, way) => n + pointsOf(way).length, 0);
const values = () => ({ points: ways().map(pointsOf), seeds: { of: kept.of, ways: ways().map(way => kept.seeds[keyOf(way)] ?? null) }, holds: stops().map(holdOf), times: ways().map(timeOf) });
function chip() {
  const span = document.createElement('span');
  span.className = 'joint';
  span.innerHTML = '<button type="button" class="put"></button><button type="button" class="again">⚂</button>';
  span.firstChild.addEventListener('click', () => edit(+span.dataset.way));
  span.lastChild.addEventListener('click', () => trigger('again', { way: +span.dataset.way }));
  return span;
}
function label(span, k, way, named) {
  const n = way ? pointsOf(way).length : 0, [put, again] = span.children, whole = way && `${nameOf(way[2])} to ${nameOf(way[3])}`;
  span.hidden = !way || !way[0].path || !way[1].path;
  if (span.hidden) return;
  span.dataset.way = k; span.classList.toggle('some', n > 0);
  const own = !open && timeOf(way);
  put.textContent = `${named ? `${short(way[2])} → ${short(way[3])}: ` : way[3] === 0 ? '↺ ' : ''}${n ? `• ${many(n)}` : '+ points'}${own ? ` · ${own} s` : ''}`;
  put.ariaLabel = `Points from ${whole}: ${n || 'none'}`; put.title = `what becomes what, from ${whole}`;
  again.hidden = !more || ways().length < 2; again.ariaLabel = again.title = `Make the way from ${whole} again, with another seed`;
}
// Chips of the ways that end in From, To or the first picture stand before all; each other is on the picture it goes from.
const heads = more ? [0, 1].map(() => keys.parentNode.querySelector('.lead').appendChild(chip())) : [];
function chips() {
  const all = ways();
  heads.forEach((span, k) => label(span, k, all[k], true));
  items.forEach((key, i) => { key.chip ??= key.cell.appendChild(chip()); label(key.chip, i + lead.length, all[i + lead.length], false); });
  timings();
}
function edit(k) {
  const way = ways()[k], key = keyOf(way);
  const from = document.activeElement;
  editor.open({
    names: [nameOf(way[2]), nameOf(way[3])], paths: [way[0].path, way[1].path], pairs: pointsOf(way),
    first: stops()[0].path, fit: window.chrysalisFit?.[OWN.tab] || 'fit',
    tell: pairs => {
      const first = !counted();
      kept.points[key] = pairs; chips(); tell();
      if (first && pairs.length) trigger('points');  // they are there to move something
    },
    ask: () => trigger('arrows', { way: k }),
    closed: () => from?.isConnected && from.focus({ preventScroll: true }),
  });
}
// After pictures were moved, taken away or exchanged: what became of points.
function miss(before, gone, back = null) {
  const lost = before - counted();
  if (lost > 0) say(gone ? `${many(lost)} went with it.` : `${many(lost)} wait${lost === 1 ? 's' : ''} until the pictures are neighbours again.`, back);
  else if (back && gone) say('', back);
}
function paired() {
  const now = window.chrysalisPair?.[OWN.tab];
  if (!more || !now) return;
  const before = counted(), timed = set(), old = lead, changed = ['a', 'b'].filter((s, i) => (now[s]?.path || '') !== old[i].path);
  if (!changed.length) return;
  lead = ['a', 'b'].map(s => ({ id: now[s]?.path || '', path: now[s]?.path || '' }));
  arrive(); draw(); tell();
  if (timed || set()) trigger('timed', {});
  const swapped = changed.length > 1 && lead[0].path === old[1].path && lead[1].path === old[0].path;
  const put = Object.fromEntries(changed.map(s => [s, old['ab'.indexOf(s)].path]).filter(([, path]) => path));
  say('');
  if (before > counted()) miss(before, !swapped, swapped ? null : () => window.dispatchEvent(new CustomEvent('chrysalis-put', { detail: { tab: OWN.tab, put } })));
}
if (more) {
  let soon = null;  // a swap tells of one side after the other
  window.addEventListener('chrysalis-pair', () => { clearTimeout(soon); soon = setTimeout(paired, 120); });
  window.addEventListener('chrysalis-more', e => { if (e.detail.tab === OWN.tab) take(e.detail.files); });
}
window.addEventListener('chrysalis-loop', e => { if (e.detail.tab === OWN.tab && loop !== e.detail.on) { loop = e.detail.on; arrive(); draw(); tell(); } });
