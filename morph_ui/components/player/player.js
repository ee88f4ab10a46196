// One closure a page: what Python last sent, and where the scrubber stands. Python never hears of playing. What is
// played is the film as it will be written: shots of a cell, of milliseconds, and of a picture between two cells.
const scrub = q('.scrub'), play = q('.play');
let cells = [], film = [], ends = [], at = 0, shot = -1, run = -1, key = '', playing = 0, began = 0, touched = false, over = false;
const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;  // then nothing starts to move by itself
const between = new Map();  // pictures, held so that they are there in time

function show(i, src) {
  at = Math.max(0, Math.min(i, cells.length - 1));
  const cell = cells[at], from = src || cell?.src;
  if (from) { if (big.getAttribute('src') !== from) big.src = from; big.classList.toggle('forming', cell.state === 'forming'); }
  stage.classList.toggle('has', !!big.src);
  scrub.value = at; mark(at);
  q('.where').textContent = cells.length ? `${at + 1} / ${cells.length}` : '';
}
function tick(now) {
  const ms = Math.max(0, now - began) % ends.at(-1), k = ends.findIndex(end => ms < end);
  if (k !== shot) { shot = k; show(film[k][0], film[k][2]); }
  playing = requestAnimationFrame(tick);
}
function pause() { cancelAnimationFrame(playing); playing = 0; play.textContent = '▶'; play.setAttribute('aria-label', 'Play'); }
function start() {
  pause();
  if (film.length < 2) return;
  const k = Math.max(0, film.findIndex(([i]) => i === at));
  began = performance.now() - (k ? ends[k - 1] : 0); shot = -1;
  playing = requestAnimationFrame(tick);
  play.textContent = '❚❚'; play.setAttribute('aria-label', 'Pause');
}
function choose(i) { touched = true; pause(); show(i); trigger('choose', { index: i }); }
function lace(shots) {
  film = shots?.length ? shots : cells.map((c, i) => [i, 125, '']).filter(([i]) => cells[i].state === 'done');
  let sum = 0; ends = film.map(([, ms]) => sum += ms);
  const wanted = new Set(film.map(([, , src]) => src).filter(Boolean));
  for (const src of between.keys()) if (!wanted.has(src)) between.delete(src);
  for (const src of wanted) if (!between.has(src)) between.set(src, Object.assign(new Image(), { src }));
  q('.long').textContent = shots?.length ? `${(sum / 1000).toLocaleString('en', { maximumFractionDigits: 2 })} s` : '';
}

function draw() {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  const before = cells;
  if (v.run !== run) { run = v.run; touched = over = false; pause(); }
  const finished = v.done && !over;
  over = v.done; cells = v.cells; scrub.max = cells.length - 1;
  element.style.setProperty('--ratio', v.ratio);
  lay(cells, 'Frame', choose); lace(v.film);
  requestAnimationFrame(() => tellOf(v, OWN.tab));
  window.dispatchEvent(new CustomEvent('chrysalis-ways', { detail: { tab: OWN.tab, ways: v.ways || [] } }));
  if (v.fill && v.key !== key) { key = v.key; trigger('fill', {}); }  // Python makes the pictures between
  if (playing) return start();
  const changed = cells.map((c, i) => [c, i]).filter(([c, i]) => c.src && c.src !== before[i]?.src && i && i < cells.length - 1);
  if (!touched && changed.length) show(changed[changed.length >> 1][1]); else show(at);
  if (finished && !touched) { show(0); if (!calm()) start(); }
}
play.addEventListener('click', () => { touched = true; playing ? pause() : start(); });
scrub.addEventListener('input', () => { touched = true; pause(); show(+scrub.value); });
scrub.addEventListener('change', () => choose(+scrub.value));
watch('value', draw); draw();
