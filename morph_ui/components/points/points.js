// Pairs of points on two neighbouring pictures, in a window over the page. `editor.open` is told what to show, and tells of
// every change at once: closing it saves nothing and loses nothing.
const editor = (() => {
  const box = element.appendChild(document.createElement('dialog')), STEP = 0.01, SMALL = 0.002, SPOTS = [.5, .3, .7, .15, .85];
  box.className = 'points'; box.setAttribute('aria-label', 'Points');
  box.innerHTML = '<div class="head"><b></b><span class="line" role="status"></span><button type="button" class="done">Done</button></div><div class="panes"></div>'
    + '<div class="foot"><button type="button" class="new">Add a pair</button><button type="button" class="back">Undo</button>'
    + '<button type="button" class="show" aria-pressed="false">Show what moves</button><span class="tags" role="list" aria-label="Pairs"></span></div><p class="legend" hidden></p><span class="told" role="status"></span>';
  const part = s => box.querySelector(s), both = [0, 1];
  const clamp = v => Math.round(Math.min(1, Math.max(0, v)) * 1e4) / 1e4, copy = x => JSON.parse(JSON.stringify(x));
  // Golden angle: neighbours in number are far apart in colour. The number says the same to who sees no colours.
  const colour = i => `hsl(${Math.round(150 + 137.5 * i) % 360} 75% 42%)`;
  let own = null, pairs = [], pending = null, past = [], held = null, caught = false, stepped = false, wrong = '', asked = 0, later = null, arrows = null, word = '';

  const panes = both.map(s => {
    const pane = part('.panes').appendChild(document.createElement('section'));
    pane.className = 'pane';
    pane.innerHTML = '<h4></h4><div class="photo"><img alt="" draggable="false"><i class="cut" hidden><b></b></i><svg aria-hidden="true"></svg></div>';
    const photo = pane.querySelector('.photo'), at = e => { const r = photo.getBoundingClientRect(); return [clamp((e.clientX - r.left) / r.width), clamp((e.clientY - r.top) / r.height)]; };
    photo.addEventListener('click', e => { if (!caught && !e.target.closest('.pt') && photo.querySelector('img').src) put(s, ...at(e)); });
    photo.addEventListener('pointerdown', e => {
      const dot = e.target.closest('.pt');
      caught = !!dot;  // the click at its end is the picture's
      if (!dot || e.button || held) return;
      const i = +dot.dataset.i, [x, y] = at(e), [px, py] = where(s, i);
      e.preventDefault(); dot.focus({ preventScroll: true }); photo.setPointerCapture(e.pointerId);
      held = { i, s, id: e.pointerId, dx: px - x, dy: py - y, moved: false };
    });
    photo.addEventListener('pointermove', e => {
      if (!held || e.pointerId !== held.id || held.s !== s) return;
      const [x, y] = at(e);
      move(s, held.i, clamp(x + held.dx), clamp(y + held.dy), !held.moved); held.moved = true;
    });
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) photo.addEventListener(end, e => {
      if (!held || e.pointerId !== held.id) return;
      const { moved } = held;
      held = null;
      if (moved) tell();
    });
    return { pane, photo, name: pane.querySelector('h4'), cut: pane.querySelector('.cut'), img: pane.querySelector('img'), svg: pane.querySelector('svg'), dots: [] };
  });
  // What of a picture (its width over its height is ``own``) frames of proportions ``frame`` leave out, is dark; they cover it.
  function crop({ cut, name }, own, frame, title) {
    const w = Math.min(1, frame / own), h = Math.min(1, own / frame), out = frame && Math.min(w, h) < .99;
    cut.hidden = !out; name.textContent = out ? `${title} · what is dark lies outside of the frames` : title;
    Object.assign(cut.firstChild.style, { left: `${50 - 50 * w}%`, top: `${50 - 50 * h}%`, width: `${100 * w}%`, height: `${100 * h}%` });
  }
  const percent = v => `${Math.round(100 * v)} %`;
  const where = (s, i) => i === pairs.length ? pending.at : pairs[i].slice(2 * s, 2 * s + 2);

  function tell() {
    foot(); own.tell(copy(pairs));
    const mine = ++asked;
    wrong = '';
    if (pairs.length) server.checked({ points: pairs }).then(text => { if (mine === asked) { wrong = text; line(); } }).catch(() => {});
    if (part('.show').ariaPressed === 'true') { clearTimeout(later); later = setTimeout(look, 300); }
    line();
  }
  function remember() { past = [...past, copy(pairs)].slice(-200); }
  function change(act, focus) { remember(); act(); draw(focus); tell(); }
  function put(s, x, y) {
    if (pending && pending.s !== s) {
      const at = s ? [...pending.at, x, y] : [x, y, ...pending.at];
      pending = null;
      return change(() => pairs.push(at), [s, pairs.length]);
    }
    if (pairs.length >= OWN.points) { wrong = `At most ${OWN.points} pairs.`; return line(); }
    pending = { s, at: [x, y] };
    draw([s, pairs.length]); line();
  }
  function move(s, i, x, y, first) {
    if (i === pairs.length) pending.at = [x, y];
    else { if (first) remember(); pairs[i].splice(2 * s, 2, x, y); }
    place(s, i);
  }
  function remove(i, s = 0) {
    if (i === pairs.length) { pending = null; draw(); return line(); }
    change(() => pairs.splice(i, 1), [s, Math.min(i, pairs.length - 2)]);
  }
  function undo() {
    if (pending) { pending = null; draw(); return line(); }
    if (!past.length) return;
    pairs = past.pop(); stepped = false; held = null; draw(); tell();
  }
  // For keys: in the middle of both, or where no other point is near.
  function add() {
    if (pending) return put(1 - pending.s, .5, .5);
    if (pairs.length >= OWN.points) { wrong = `At most ${OWN.points} pairs.`; return line(); }
    const spots = SPOTS.flatMap(y => SPOTS.map(x => [x, y])), far = ([x, y]) => pairs.every(p => Math.hypot(p[0] - x, p[1] - y) > .08 && Math.hypot(p[2] - x, p[3] - y) > .08);
    const at = spots.find(far) || spots[0];
    change(() => pairs.push([...at, ...at]), [0, pairs.length]);
  }
  function place(s, i) {
    const dot = panes[s].dots[i], [x, y] = where(s, i);
    dot.style.left = `${100 * x}%`; dot.style.top = `${100 * y}%`;
    const name = i === pairs.length ? `Point ${i + 1} in ${own.names[s]}, without its other` : `Point ${i + 1} in ${own.names[s]}`;
    dot.ariaLabel = `${name}, ${percent(x)} from the left, ${percent(y)} from the top`;
  }
  function draw(focus) {
    const active = box.contains(document.activeElement) && document.activeElement.dataset;
    focus ??= active && active.i !== undefined ? [+active.s, +active.i] : null;
    for (const s of both) {
      const { photo, dots, pane } = panes[s];
      for (const dot of dots) dot?.remove();
      panes[s].dots = [...pairs, ...(pending ? [pending] : [])].map((p, i) => {
        if (p === pending && p.s !== s) return null;
        const dot = Object.assign(document.createElement('button'), { type: 'button', className: p === pending ? 'pt alone' : 'pt', textContent: i + 1 });
        Object.assign(dot.dataset, { i, s }); dot.style.setProperty('--own', colour(i));
        photo.append(dot);
        return dot;
      });
      panes[s].dots.forEach((dot, i) => dot && place(s, i));
      pane.classList.toggle('wanted', !!pending && pending.s !== s);
    }
    part('.tags').replaceChildren(...pairs.map((_, i) => {
      const tag = document.createElement('span'), off = document.createElement('button');
      tag.className = 'tag'; tag.setAttribute('role', 'listitem'); tag.style.setProperty('--own', colour(i)); tag.append(i + 1, off);
      Object.assign(off, { type: 'button', textContent: '×', ariaLabel: `Remove pair ${i + 1}`, onclick: () => remove(i) });
      return tag;
    }));
    (focus && panes[focus[0]].dots[focus[1]])?.focus({ preventScroll: true });
    foot(); paint();
  }
  function foot() { part('.back').disabled = !past.length && !pending; }
  function line() {
    const n = pairs.length, hint = pending ? `Now click the same part in ${own.names[1 - pending.s]}.`
      : !n ? 'Click a part in one picture, then what it becomes in the other.'
        : n === 1 ? 'One pair moves the picture as a whole: add more.' : 'Drag points to move them; arrow keys move them too, Delete removes a pair.';
    const text = wrong || word || hint;
    if (part('.line').textContent !== text) part('.line').textContent = text;
    part('.line').classList.toggle('wrong', !!wrong);
  }
  // ---- the field of arrows
  function look() { word = 'Looking …'; line(); own.ask(); }
  // From where a part is in the first picture to where it is in the second, in both; the dot is its place in this one.
  function arrow(s, w, h, [x0, y0, x1, y1, trust]) {
    const way = document.createElementNS('http://www.w3.org/2000/svg', 'g'), [ax, ay, bx, by] = [x0 * w, y0 * h, x1 * w, y1 * h];
    const far = Math.hypot(bx - ax, by - ay), head = Math.min(9, far * .6), [u, v] = far ? [(bx - ax) / far, (by - ay) / far] : [0, 0];
    const base = [bx - head * u, by - head * v], side = t => `${base[0] - t * v * head * .45} ${base[1] + t * u * head * .45}`;
    const path = far < 3 ? '' : `M${ax} ${ay} L${base} M${bx} ${by} L${side(1)} L${side(-1)} Z`, [x, y] = s ? [bx, by] : [ax, ay];
    way.innerHTML = `<path class="under" d="${path}"/><path d="${path}"/><circle cx="${x}" cy="${y}" r="2.6"/>`;
    way.style.opacity = .25 + .75 * trust;
    return way;
  }
  function paint() {
    const on = part('.show').ariaPressed === 'true' && arrows;
    part('.legend').hidden = !on;
    panes.forEach(({ svg, photo }, s) => {
      const { clientWidth: w, clientHeight: h } = photo;
      svg.setAttribute('viewBox', `0 0 ${w} ${h}`);
      svg.replaceChildren(...(on || []).map(way => arrow(s, w, h, way)));
    });
  }
  addEventListener('resize', () => { if (own) paint(); });
  part('.show').addEventListener('click', () => {
    const on = part('.show').ariaPressed !== 'true';
    part('.show').ariaPressed = on; word = '';
    if (on) look(); else { arrows = null; paint(); line(); }
  });
  // ---- keys and the rest
  box.addEventListener('keydown', e => {
    e.stopPropagation();  // the page below has keys of its own
    if ((e.ctrlKey || e.metaKey) && !e.shiftKey && letter(e) === 'z') { e.preventDefault(); return undo(); }
    const dot = e.target.closest('.pt'), by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!dot || held || e.ctrlKey || e.metaKey || e.altKey) return;
    const s = +dot.dataset.s, i = +dot.dataset.i;
    if (e.key === 'Delete' || e.key === 'Backspace') { e.preventDefault(); return remove(i, s); }
    if (!by) return;
    e.preventDefault();
    const [x, y] = where(s, i), far = e.shiftKey ? SMALL : STEP;
    move(s, i, clamp(x + by[0] * far), clamp(y + by[1] * far), !stepped); stepped = true;
  });
  // A key held down is one change.
  const settle = () => { if (stepped) { stepped = false; tell(); part('.told').textContent = document.activeElement?.ariaLabel || ''; } };
  box.addEventListener('keyup', e => { if (e.key.startsWith('Arrow')) settle(); });
  box.addEventListener('focusout', settle);
  for (const [on, off] of [['focusin', 'focusout'], ['pointerover', 'pointerout']]) {
    const mark = (e, yes) => { const i = e.target.closest?.('.pt')?.dataset.i; if (i !== undefined) for (const { dots } of panes) dots[i]?.classList.toggle('on', yes); };
    box.addEventListener(on, e => mark(e, true)); box.addEventListener(off, e => mark(e, false));
  }
  box.addEventListener('cancel', e => { if (pending) { e.preventDefault(); undo(); } });
  box.addEventListener('close', () => { settle(); clearTimeout(later); const done = own; own = null; done?.closed(); });
  part('.done').addEventListener('click', () => box.close());
  part('.back').addEventListener('click', undo);
  part('.new').addEventListener('click', add);

  return {
    // ``names`` and ``paths`` of both pictures, ``pairs``; ``fit`` of the frames, to the picture at ``first``; ``tell(pairs)`` after every change, ``ask()`` for arrows, ``closed()``.
    async open(what) {
      own = what; pairs = copy(what.pairs); pending = held = arrows = null; past = []; wrong = word = ''; stepped = false;
      part('.head b').textContent = `${what.names[0]} → ${what.names[1]}`; part('.told').textContent = '';
      part('.legend').innerHTML = `<svg viewBox="0 0 34 10" aria-hidden="true"><path d="M3 5 L24 5 M32 5 L24 1 L24 9 Z"/><circle cx="3" cy="5" r="2.6"/></svg>Arrows lead from where a part is in ${what.names[0]} to where it is in ${what.names[1]}. The dot marks its place in this picture; the fainter, the less sure.`;
      part('.show').ariaPressed = 'false';
      panes.forEach((pane, s) => { const { img, photo } = pane; crop(pane, 1, 0, what.names[s]); img.removeAttribute('src'); img.alt = what.names[s]; photo.style.setProperty('--ratio', 1); });
      draw(); line(); box.showModal();
      const read = path => server.shown({ path }).catch(() => ({ error: 'The studio does not answer.' })), k = what.paths.indexOf(what.first);
      const shown = what.paths.map(read), first = k < 0 ? read(what.first) : shown[k];
      await Promise.all(panes.map(async (pane, s) => {
        const { img, photo } = pane, got = await shown[s], { ratio } = await first;
        if (own !== what) return;
        if (got.error) { wrong = got.error; return line(); }
        photo.style.setProperty('--ratio', got.ratio); img.src = got.url;
        const frame = { fit: Math.min(3, Math.max(1 / 3, ratio || 1)), crop: 1 }[what.fit] || 0;  // (padded: it is whole)
        crop(pane, got.ratio, frame, what.names[s]);
      }));
    },
    // What came of ``ask``.
    show(found, said) { if (!own) return; arrows = found; word = said || ''; paint(); line(); },
  };
})();
