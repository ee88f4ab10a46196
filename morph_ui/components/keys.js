// Which letter a key means: its own where the layout has Latin letters, else that of its place. With AltGr it types a sign.
const letter = e => e.isComposing || e.getModifierState?.('AltGraph') ? ''
  : (/^[a-z]$/i.test(e.key) ? e.key : /^Key([A-Z])$/.exec(e.code)?.[1] || '').toLowerCase();
// Something for screen readers, said once (help/names.js).
const speak = text => window.dispatchEvent(new CustomEvent('chrysalis-said', { detail: text }));
