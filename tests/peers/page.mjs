// A page like a console of the data centre, and what it needs from its server.
//
// `serve CERT KEY`: prints its port, then a line of JSON when the page reports what it saw. Ends
// when its standard input does.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { WebSocketServer } from 'ws';

const [, , , cert, key] = process.argv;

const PAGE = `<!doctype html>
<title>Console</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/ui/style.css">
<body><script type="module" src="/ui/app.js"></script></body>`;

const STYLE = 'body { color: rgb(1, 2, 3) }';

// Runs in the browser.
const APP = `
const once = (target, name) => new Promise((found, failed) => {
  target.addEventListener(name, found, { once: true });
  target.addEventListener('error', () => failed(new Error(name)), { once: true });
});
const result = { page: location.href, color: getComputedStyle(document.body).color };
try {
  const answer = await fetch('/api/vm', { method: 'POST', body: 'x'.repeat(100000) });
  result.fetch = { status: answer.status, call: answer.headers.get('culvert-call'), saw: await answer.json() };

  const socket = new WebSocket('wss://' + location.host + '/ticket/1', ['vmware-vvc', 'binary']);
  socket.binaryType = 'arraybuffer';
  await once(socket, 'open');
  socket.send(new Uint8Array([1, 2, 3]));
  const { data } = await once(socket, 'message');
  socket.close(4001, 'done');
  const { code, reason } = await once(socket, 'close');
  result.socket = { protocol: socket.protocol, echo: [...new Uint8Array(data)], code, reason };

  const events = new EventSource('/api/events');
  result.event = (await once(events, 'message')).data;
  events.close();

  result.forbidden = (await fetch('/forbidden/x')).status;
} catch (error) {
  result.error = String(error);
}
await fetch('/api/result', { method: 'POST', body: JSON.stringify(result) });
`;

async function body(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return text;
}

const send = (answer, type, text, headers = {}) =>
  answer.writeHead(200, { 'content-type': type, ...headers }).end(text);

const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) });

const ROUTES = {
  // The data centre's own name for itself.
  '/': (request, answer) => {
    const { host } = request.headers;
    answer.writeHead(302, { location: `https://${host}/ui/` }).end();
  },
  '/ui/': (_, answer) =>
    send(answer, 'text/html', PAGE, { 'set-cookie': 'session=one; Path=/; Secure; HttpOnly' }),
  '/ui/style.css': (_, answer) => send(answer, 'text/css', STYLE),
  '/ui/app.js': (_, answer) => send(answer, 'text/javascript', APP),
  '/api/vm': async (request, answer) => {
    const { host, origin, referer, cookie } = request.headers;
    const { length } = await body(request);
    send(answer, 'application/json', JSON.stringify({ host, origin, referer, cookie, length }));
  },
  // Never ends: what buffers does not pass the first event on.
  '/api/events': (_, answer) =>
    answer.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: first\n\n'),
  '/api/result': async (request, answer) => {
    console.log(await body(request));
    answer.writeHead(204).end();
  },
};

server.on('request', (request, answer) => {
  const route = ROUTES[request.url];
  if (route) route(request, answer);
  else answer.writeHead(404).end();
});
const handleProtocols = (offered) => (offered.has('binary') ? 'binary' : false);
new WebSocketServer({ server, handleProtocols }).on('connection', (socket) =>
  socket.on('message', (data, binary) => socket.send(data, { binary })),
);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();
