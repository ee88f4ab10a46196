// What joints.js and timeline.js have in common.
const keys = element.querySelector('.keys'), add = element.querySelector('.add'), file = add.querySelector('input');
const trouble = element.querySelector('.trouble span'), undo = element.querySelector('.trouble button'), MOST = OWN.most;
const STORED = `chrysalis-${OWN.name}`;
const timing = element.querySelector('.timing');
let items = [], waiting = [], sent = null, held = null, before = null;
