// An OAuth server for the tests: `node server.mjs CONFIG`.
//
// CONFIG is JSON: `tls` {certificate, key} as PEM, `keys` (private JWKs), `audience`, `lifetime`
// in seconds, and `clients` [{id, secret, scope, tenant, endpoints}]. Prints its issuer URL once
// it listens on a free loopback port, and ends when its standard input does.

import { readFileSync } from 'node:fs';
import { webcrypto } from 'node:crypto';
import { createServer } from 'node:https';

// Debian 12 ships Node 18, which lacks two globals of later releases.
globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};
const { default: Provider } = await import('oidc-provider');

const { tls, keys, audience, lifetime, clients } = JSON.parse(readFileSync(process.argv[2]));

const server = createServer({ cert: tls.certificate, key: tls.key });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    extraClientMetadata: { properties: ['tenant', 'endpoints'] },
    clients: clients.map(({ id, secret, scope, tenant, endpoints }) => ({
      client_id: id,
      client_secret: secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      ...(scope && { scope }),
      ...(tenant && { tenant }),
      ...(endpoints && { endpoints }),
    })),
    scopes: ['culvert:register', 'culvert:call'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // One resource, so that nobody has to name it; its tokens are JWTs (RFC 9068).
        defaultResource: () => 'urn:culvert',
        getResourceServerInfo: () => ({
          scope: 'culvert:register culvert:call',
          audience,
          accessTokenTTL: lifetime,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    extraTokenClaims(ctx) {
      const { tenant, endpoints } = ctx.oidc.client;
      return { ...(tenant && { tenant }), ...(endpoints && { culvert_endpoints: endpoints }) };
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});

process.stdin.resume().on('end', () => process.exit(0));
