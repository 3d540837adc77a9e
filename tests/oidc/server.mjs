// An OAuth server for the tests: `node server.mjs CONFIG`.
//
// CONFIG is JSON: `tls` {certificate, key} as PEM, `keys` (private JWKs), `audience`, `lifetime`
// in seconds, and `clients` [{id, scope, tenant, endpoints}, each with a `secret`, or with a `key`
// (a public JWK) for private_key_jwt]. May have: `port` (a free one otherwise); `opaque`, whether
// its tokens are no JWTs, but can be introspected; `refresh` {client, account}, a refresh token to
// be given out, which every use replaces.
//
// Prints its issuer URL, and the refresh token behind it, once it listens on loopback. Reads lines
// of JSON: `{"keys": [...]}` replaces its keys, and is answered with a line. Ends when its standard
// input does.

import { readFileSync } from 'node:fs';
import { webcrypto } from 'node:crypto';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

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

const config = JSON.parse(readFileSync(process.argv[2]));
const { tls, audience, lifetime, opaque, refresh } = config;
const resource = 'urn:culvert';

function client({ id, secret, key, scope, tenant, endpoints }) {
  const refreshes = id === refresh?.client;
  return {
    client_id: id,
    ...(key
      ? {
          jwks: { keys: [key] },
          token_endpoint_auth_method: 'private_key_jwt',
          token_endpoint_auth_signing_alg: 'ES256',
        }
      : { client_secret: secret }),
    grant_types: refreshes ? ['authorization_code', 'refresh_token'] : ['client_credentials'],
    redirect_uris: refreshes ? ['https://localhost/callback'] : [],
    response_types: refreshes ? ['code'] : [],
    ...(scope && { scope: refreshes ? `openid offline_access ${scope}` : scope }),
    ...(tenant && { tenant }),
    ...(endpoints && { endpoints }),
  };
}

function provide(issuer, keys) {
  return new Provider(issuer, {
    jwks: { keys },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    extraClientMetadata: { properties: ['tenant', 'endpoints'] },
    clients: config.clients.map(client),
    scopes: ['openid', 'offline_access', 'culvert:register', 'culvert:call'],
    rotateRefreshToken: true,
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    ttl: { AccessToken: lifetime, Grant: 3600, RefreshToken: 3600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // One resource, so that nobody has to name it; its tokens are JWTs (RFC 9068).
        defaultResource: () => resource,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'culvert:register culvert:call',
          audience,
          accessTokenTTL: lifetime,
          ...(opaque
            ? { accessTokenFormat: 'opaque' }
            : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
        }),
      },
    },
    extraTokenClaims(ctx) {
      const { tenant, endpoints } = ctx.oidc.client;
      return { ...(tenant && { tenant }), ...(endpoints && { culvert_endpoints: endpoints }) };
    },
  });
}

/// As if somebody had consented once.
async function consent(provider, { client: clientId, account: accountId }) {
  const scope = 'culvert:register';
  const grant = new provider.Grant({ accountId, clientId });
  grant.addResourceScope(resource, scope);
  const token = new provider.RefreshToken({
    accountId,
    client: await provider.Client.find(clientId),
    grantId: await grant.save(),
    gty: 'authorization_code',
    resource,
    rotations: 0,
    scope,
  });
  return token.save();
}

const server = createServer({ cert: tls.certificate, key: tls.key });
server.listen(config.port ?? 0, '127.0.0.1', async () => {
  const issuer = `https://localhost:${server.address().port}`;
  let provider = provide(issuer, config.keys);
  let answer = provider.callback();
  server.on('request', (request, response) => answer(request, response));
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      // What it has given out stays: that is kept beside the provider.
      provider = provide(issuer, JSON.parse(line).keys);
      answer = provider.callback();
      console.log('replaced');
    })
    .on('close', () => process.exit(0));
  const token = refresh ? ` ${await consent(provider, refresh)}` : '';
  console.log(issuer + token);
});
