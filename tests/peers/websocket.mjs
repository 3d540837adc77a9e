// WebSocket peers (npm `ws`).
//
// `serve CERT KEY`: an echo server. Prints its port, then a line per event: `opened PATH`,
//   `closed CODE`. It closes with code and reason when it is sent `close CODE REASON`, and
//   drops the connection when it is sent `kill`. Ends when its standard input does.
// `call VERSION URL CA TOKEN WORDS [PROXY PROXY_CA]`: opens a WebSocket over HTTP/1.1 or HTTP/2,
//   through an HTTPS proxy if there is one, sends 200 kB and then WORDS, and prints as JSON what
//   came of it. With `stay` as WORDS it prints `open` and waits.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { createServer } from 'node:https';
import { connect as tls } from 'node:tls';
import { Receiver, Sender, WebSocket, WebSocketServer } from 'ws';

const [, , role, ...rest] = process.argv;
const BODY = randomBytes(200_000);
const PROTOCOLS = ['vmware-vvc', 'binary'];

function serve(cert, key) {
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) });
  const handleProtocols = (offered) => (offered.has('binary') ? 'binary' : false);
  const sockets = new WebSocketServer({ server, handleProtocols });
  sockets.on('connection', (socket, request) => {
    console.log(`opened ${request.url}`);
    socket.on('error', () => {});
    socket.on('close', (code) => console.log(`closed ${code}`));
    socket.on('message', (data, isBinary) => {
      const [word, code, ...reason] = isBinary ? [] : data.toString().split(' ');
      if (word === 'close') socket.close(Number(code), reason.join(' '));
      else if (word === 'kill') socket.terminate();
      else socket.send(data, { binary: isBinary });
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
  process.stdin.on('end', () => process.exit()).resume();
}

// What the two versions have in common: messages in, words out.
function converse(send, words, result) {
  if (words === 'stay') return console.log('open');
  send(BODY, true);
  return (data, isBinary) => {
    result.same = isBinary && BODY.equals(data);
    send(words, false);
  };
}

const done = (result) => {
  console.log(JSON.stringify(result));
  process.exit();
};

// A connection to the server of `url` through a proxy: TLS within TLS.
function through(url, ca, token, alpn, proxy, proxyCa) {
  const { hostname, port } = new URL(url);
  const target = `${hostname}:${port || 443}`;
  const { hostname: servername, port: proxyPort } = new URL(proxy);
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port: proxyPort, servername, ca: readFileSync(proxyCa) };
    const outer = tls(options, () => {
      outer.write(
        `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\nProxy-Authorization: Bearer ${token}\r\n\r\n`,
      );
      outer.once('data', (head) => {
        if (!head.toString().startsWith('HTTP/1.1 200 ')) return reject(new Error(head.toString()));
        const inner = tls({ socket: outer, servername: hostname, ca, ALPNProtocols: [alpn] }, () =>
          resolve(inner),
        );
        inner.on('error', reject);
      });
    });
    outer.on('error', reject);
  });
}

function http1(url, ca, token, words, connection) {
  const lookup = (_, options, found) =>
    options.all ? found(null, [{ address: '127.0.0.1', family: 4 }]) : found(null, '127.0.0.1', 4);
  const headers = { 'culvert-authorization': `Bearer ${token}` };
  const createConnection = connection && (() => connection);
  const socket = new WebSocket(url, PROTOCOLS, { ca, lookup, headers, createConnection });
  const result = {};
  socket.on('unexpected-response', (_, answer) => done({ status: answer.statusCode }));
  socket.on('error', (error) => (result.error = error.message));
  socket.on('open', () => {
    result.protocol = socket.protocol;
    const send = (data, binary) => socket.send(data, { binary });
    const take = converse(send, words, result);
    if (take) socket.on('message', take);
  });
  socket.on('close', (code, reason) => done({ ...result, code, reason: reason.toString() }));
}

function http2(url, ca, token, words, connection) {
  const { host, hostname, port, pathname } = new URL(url);
  const createConnection = connection && (() => connection);
  const session = connect(`https://127.0.0.1:${port}`, { ca, servername: hostname, createConnection });
  session.on('error', (error) => done({ error: error.message }));
  session.on('remoteSettings', (settings) => {
    if (!settings.enableConnectProtocol) return done({ error: 'no extended CONNECT' });
    const stream = session.request(
      {
        ':method': 'CONNECT',
        ':protocol': 'websocket',
        ':scheme': 'https',
        ':authority': host,
        ':path': pathname,
        'sec-websocket-version': '13',
        'sec-websocket-protocol': PROTOCOLS.join(', '),
        'culvert-authorization': `Bearer ${token}`,
      },
      { endStream: false },
    );
    const result = {};
    stream.on('error', (error) => (result.error = error.code));
    stream.on('close', () => done({ code: 1006, reason: '', ...result, reset: stream.rstCode }));
    stream.on('response', (headers) => {
      if (headers[':status'] !== 200) return done({ status: headers[':status'] });
      result.protocol = headers['sec-websocket-protocol'];
      const sender = new Sender(stream, {}, undefined);
      const send = (data, binary) =>
        sender.send(Buffer.from(data), { binary, mask: true, fin: true, compress: false }, () => {});
      const receiver = new Receiver({ isServer: false });
      const take = converse(send, words, result);
      if (take) receiver.on('message', take);
      receiver.on('conclude', (code, reason) => {
        Object.assign(result, { code, reason: reason.toString() });
        sender.close(code, undefined, true, () => stream.end());
      });
      stream.pipe(receiver);
    });
  });
}

if (role === 'serve') serve(...rest);
else {
  const [version, url, caFile, token, words, proxy, proxyCa] = rest;
  const ca = readFileSync(caFile);
  const alpn = version === '2' ? 'h2' : 'http/1.1';
  const call = (connection) =>
    (version === '2' ? http2 : http1)(url, ca, token, words, connection);
  if (!proxy) call();
  else
    through(url, ca, token, alpn, proxy, proxyCa).then(call, (error) =>
      done({ error: error.message }),
    );
}
