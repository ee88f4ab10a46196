// The artist's own networks and LoRAs: a card each. Python sets what there is and what is chosen; `choose` and `join` tell names.
const grid = element.querySelector('.mine');

function make(name, text) {
  const made = document.createElement(name);
  made.textContent = text || '';
  return made;
}
function card(own, chosen) {
  const button = make('button'), look = make(own.src ? 'img' : 'i', own.src ? '' : own.lora ? '+' : '◇');
  if (own.src) { look.src = own.src; look.alt = ''; }
  button.type = 'button'; button.title = own.name; button.dataset.name = own.name;
  button.setAttribute('aria-pressed', chosen.includes(own.name));
  button.append(look, make('b', own.name.replace(/\.safetensors$/, '')), make('span', own.about));
  button.addEventListener('click', () => trigger(own.lora ? 'join' : 'choose', { name: own.name }));
  return button;
}
function draw() {
  const { own = [], chosen = [], why = [] } = props.value ? JSON.parse(props.value) : {}, top = grid.scrollTop;
  const none = own.length || !props.value ? [] : [make('p', 'Nothing that can be used lies in your folder yet.')];
  const refused = why.length ? [make('details')] : [];
  refused.forEach(d => d.append(make('summary', `${why.length} that cannot be used`), ...why.map(text => make('p', text))));
  grid.replaceChildren(...own.map(o => card(o, chosen)), ...none, ...refused);
  grid.scrollTop = top;
}
watch('value', draw); draw();
