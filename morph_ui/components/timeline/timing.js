// Seconds that a picture rests, and that a way takes: boxes that are there when they are wanted. What was typed is kept by the
// picture, or by the two of a way; Python judges it.
let open = false, took = [];
const holdOf = stop => kept.holds[stop.id] || '';
function timeOf(way) {
  const back = `${way[1].id}>${way[0].id}`, own = kept.times[keyOf(way)];
  return own ?? (ways().some(w => keyOf(w) === back) ? '' : kept.times[back]) ?? '';
}
function box(name, value, whole, hint, set) {
  const label = document.createElement('label'), input = document.createElement('input');
  label.append(`${name} `, input, ' s');
  Object.assign(input, { type: 'text', inputMode: 'decimal', value, placeholder: hint, autocomplete: 'off', ariaLabel: whole });
  input.addEventListener('change', () => { set(input.value.trim()); tell(); count(); trigger('timed', {}); });
  return label;
}
function boxesOf(i, named) {
  const stop = stops()[i], way = ways()[i], all = [];
  const name = nameOf(i), hold = v => { kept.holds[stop.id] = v; };
  if (stop?.path) all.push(box(named ? `${name}: hold` : 'hold', holdOf(stop), `Seconds to hold ${name}`, '–', hold));
  if (!way || !way[0].path || !way[1].path) return all;
  const to = nameOf(way[3]), take = v => { kept.times[keyOf(way)] = v; delete kept.times[`${way[1].id}>${way[0].id}`]; };
  const hint = took[i] ? String(+took[i].toFixed(2)) : 'auto';
  return [...all, box(named ? `${short(i)} → ${short(way[3])}` : `to ${short(way[3])}`, timeOf(way), `Seconds from ${name} to ${to}`, hint, take)];
}
const set = () => [...stops().map(holdOf), ...ways().map(timeOf)].filter(Boolean).length;
function count() {
  const n = set();
  timing.hidden = stops().filter(s => s.path).length < 2;
  timing.textContent = n && !open ? `timing · ${n} set` : 'timing';
  timing.setAttribute('aria-expanded', open); timing.title = 'seconds that each picture rests, and that each way takes';
}
function timings() {
  const at = document.activeElement?.closest?.('.times') && document.activeElement.ariaLabel;
  element.querySelectorAll('.times').forEach(old => old.remove());
  count();
  items.forEach((key, i) => {
    const hold = !open && holdOf(key);
    key.cell.querySelector('.num').textContent = `${i + 1 + lead.length}${hold ? ` · ${hold} s` : ''}`;
  });
  if (!open || timing.hidden) return;
  const row = (into, all) => { const div = document.createElement('div'); div.className = 'times'; div.append(...all); into.append(div); };
  if (more) row(element.querySelector('.lead'), [0, 1].flatMap(k => boxesOf(k, true)));
  items.forEach((key, i) => row(key.cell, boxesOf(i + lead.length, false)));
  if (at) [...element.querySelectorAll('.times input')].find(e => e.ariaLabel === at)?.focus();
}
timing.addEventListener('click', () => { open = !open; draw(); });
// The player knows how long the ways of the film are that it shows.
window.addEventListener('chrysalis-ways', e => {
  if (e.detail.tab !== OWN.tab || String(took) === String(e.detail.ways)) return;
  took = e.detail.ways;
  if (open && !document.activeElement?.closest?.('.times')) timings();
});
