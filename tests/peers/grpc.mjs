// gRPC peers (npm `@grpc/grpc-js`).
//
// `serve CERT KEY`: prints its port, then a line per event of `Wait`: `waiting`, `cancelled`.
// `call HOST:PORT NAME CA TOKEN [pause|refused]`: makes a call of every kind to the relay at HOST:PORT, whose
//   certificate and authority are NAME, and prints as JSON what came of them. `pause`: only a
//   conversation in which the caller is silent for three seconds before each further message;
//   `refused`: only what becomes of a call, of either kind.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const file = fileURLToPath(new URL('echo.proto', import.meta.url));
const { Echo } = grpc.loadPackageDefinition(loader.loadSync(file)).culvert.test;
const [, , role, ...rest] = process.argv;

function serve(cert, key) {
  const server = new grpc.Server();
  server.addService(Echo.service, {
    Unary: (call, answer) => answer(null, call.request),
    Collect(call, answer) {
      const all = [];
      call.on('data', ({ text }) => all.push(text));
      call.on('end', () => answer(null, { text: all.join('') }));
    },
    Split(call) {
      for (const text of call.request.text) call.write({ text });
      call.end();
    },
    Chat(call) {
      call.on('data', ({ text }) => call.write({ text: text.toUpperCase() }));
      call.on('end', () => call.end());
    },
    Fail(_, answer) {
      const metadata = new grpc.Metadata();
      metadata.set('x-why', 'because');
      answer({ code: grpc.status.NOT_FOUND, details: 'no such thing', metadata });
    },
    Wait(call) {
      console.log('waiting');
      call.write({ text: 'first' });
      call.on('cancelled', () => console.log('cancelled'));
    },
  });
  const credentials = grpc.ServerCredentials.createSsl(null, [
    { private_key: readFileSync(key), cert_chain: readFileSync(cert) },
  ]);
  server.bindAsync('localhost:0', credentials, (error, port) => {
    if (error) throw error;
    console.log(port);
  });
  process.stdin.on('end', () => process.exit()).resume();
}

async function call(address, name, ca, token, only) {
  const client = new Echo(address, grpc.credentials.createSsl(readFileSync(ca)), {
    'grpc.ssl_target_name_override': name,
    'grpc.default_authority': name,
  });
  const metadata = new grpc.Metadata();
  metadata.set('culvert-authorization', `Bearer ${token}`);
  const single = (method, request) =>
    new Promise((done) =>
      client[method](request, metadata, (error, answer) =>
        done(
          error
            ? { code: error.code, details: error.details, why: error.metadata.get('x-why')[0] }
            : answer.text,
        ),
      ),
    );
  const collect = (stream) =>
    new Promise((done) => {
      const all = [];
      stream.on('data', ({ text }) => all.push(text));
      stream.on('error', (error) => done({ code: error.code, details: error.details }));
      stream.on('end', () => done(all));
    });
  // One message at a time: the next is sent when the answer to the last one is here.
  const chat = (silence) =>
    new Promise((done) => {
      const [all, stream] = [[], client.Chat(metadata)];
      stream.on('error', (error) => done({ code: error.code, details: error.details }));
      stream.on('data', ({ text }) => {
        all.push(text);
        if (all.length === 3) stream.end();
        else setTimeout(() => stream.write({ text: 'b' }), silence);
      });
      stream.on('end', () => done(all));
      stream.write({ text: 'a' });
    });
  if (only) {
    const refused = async () => [await single('Unary', { text: 'hello' }), await chat(0)];
    const result = only === 'pause' ? await chat(3000) : await refused();
    console.log(JSON.stringify({ [only]: result }));
    client.close();
    return;
  }
  const results = { unary: await single('Unary', { text: 'hello' }) };
  results.collect = await new Promise((done) => {
    const stream = client.Collect(metadata, (error, answer) => done(error ?? answer.text));
    for (const text of ['a', 'b', 'c']) stream.write({ text });
    stream.end();
  });
  results.split = await collect(client.Split({ text: 'xyz' }, metadata));
  results.chat = await chat(0);
  results.fail = await single('Fail', { text: '' });
  results.wait = await new Promise((done) => {
    const stream = client.Wait({ text: '' }, metadata);
    stream.on('data', () => stream.cancel());
    stream.on('error', (error) => done({ code: error.code }));
  });
  console.log(JSON.stringify(results));
  client.close();
}

if (role === 'serve') serve(...rest);
else await call(...rest);
