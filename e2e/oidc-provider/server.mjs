// The judge of the end-to-end tests: the third-party package `oidc-provider`, unmodified, with
// refresh-token rotation and its own reuse detection, plus a resource API and a book of what
// happened. Nothing of Tokenward is in here. See README.md.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

// stdout carries one JSON line and nothing else: the library's notices go to stderr.
console.info = console.error;
console.log = console.error;

const { default: Provider } = await import('oidc-provider');

// ---------------------------------------------------------------------------- arguments

const { values: args } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    'access-ttl': { type: 'string', default: '40' },
    'latency-ms': { type: 'string', default: '150' },
    'client-id': { type: 'string', default: 'tokenward-e2e' },
    'client-secret': { type: 'string', default: randomBytes(24).toString('hex') },
    // Repeatable. Loopback addresses match on any port (RFC 8252); the path must be the same.
    'redirect-uri': { type: 'string', multiple: true, default: [] },
  },
});

function number(name, least, most) {
  const value = Number(args[name]);
  if (!Number.isInteger(value) || value < least || value > most) {
    console.error(`--${name} must be a whole number from ${least} to ${most}`);
    process.exit(2);
  }
  return value;
}

const PORT = number('port', 0, 65535);
const ACCESS_TTL = number('access-ttl', 1, 86400);
const LATENCY_MS = number('latency-ms', 0, 600000);

const DAY = 24 * 60 * 60;
const ACCOUNT = 'e2e-user';
const MAX_FORM = 56 * 1024; // what the library itself accepts

// ------------------------------------------------------------------------------ adapter

// The library's in-memory adapter is one LRU of 1,000 entries for all models: under a long test it
// would evict live refresh tokens. This one drops an entry only when its time is over.
class MapAdapter {
  static tables = new Map(); // model -> Map(id -> { payload, expires })
  static grants = new Map(); // grantId -> Map("model\0id" -> { table, id })
  static GRANTABLE = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken']);

  constructor(model) {
    this.model = model;
    this.table = new Map();
    MapAdapter.tables.set(model, this.table);
  }

  async upsert(id, payload, expiresIn) {
    this.table.set(id, { payload, expires: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    if (payload.grantId && MapAdapter.GRANTABLE.has(this.model)) {
      let members = MapAdapter.grants.get(payload.grantId);
      if (!members) MapAdapter.grants.set(payload.grantId, (members = new Map()));
      members.set(`${this.model}\0${id}`, { table: this.table, id });
    }
  }

  async find(id) {
    const entry = this.table.get(id);
    return entry && entry.expires > Date.now() ? entry.payload : undefined;
  }

  async findByUid(uid) {
    for (const { payload, expires } of this.table.values()) {
      if (payload.uid === uid && expires > Date.now()) return payload;
    }
    return undefined;
  }

  async findByUserCode() {
    return undefined; // no device flow here
  }

  async consume(id) {
    const entry = this.table.get(id);
    if (entry) entry.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.drop(id);
  }

  async revokeByGrantId(grantId) {
    // The library calls this once per grantable model; the first call does the work of all.
    for (const { table, id } of MapAdapter.grants.get(grantId)?.values() ?? []) table.delete(id);
    MapAdapter.grants.delete(grantId);
  }

  drop(id) {
    const grantId = this.table.get(id)?.payload.grantId;
    this.table.delete(id);
    const members = MapAdapter.grants.get(grantId);
    members?.delete(`${this.model}\0${id}`);
    if (members?.size === 0) MapAdapter.grants.delete(grantId);
  }

  sweep() {
    const now = Date.now();
    for (const [id, { expires }] of this.table) if (expires <= now) this.drop(id);
  }
}

const adapters = new Map();
function adapterFor(model) {
  if (!adapters.has(model)) adapters.set(model, new MapAdapter(model));
  return adapters.get(model);
}
setInterval(() => adapters.forEach((adapter) => adapter.sweep()), 30_000).unref();

// -------------------------------------------------------------------------------- books

const books = {
  refresh_requests: 0,
  refresh_granted: 0,
  invalid_grant: 0,
  other_token_errors: 0,
  reuse_detected: 0,
  grants_revoked: 0,
  code_exchanges: 0,
  api_ok: 0,
  api_unauthorized: 0,
  refreshes: [],
};

function settle(entry, ok, error) {
  if (!entry) return;
  entry.ok = ok;
  entry.error = error;
  entry.done_ms = Date.now();
}

function keepBooks(provider) {
  provider.on('grant.success', (ctx) => {
    if (ctx.oidc.params.grant_type === 'refresh_token') books.refresh_granted += 1;
    if (ctx.oidc.params.grant_type === 'authorization_code') books.code_exchanges += 1;
    settle(ctx.state.refresh, true, null);
  });

  provider.on('grant.error', (ctx, error) => {
    if (error.error === 'invalid_grant') books.invalid_grant += 1;
    else books.other_token_errors += 1;
    // The library's own words, lib/actions/grants/refresh_token.js. It is thrown in that one place.
    if (error.error_detail === 'refresh token already used') books.reuse_detected += 1;
    settle(ctx.state.refresh, false, error.error ?? 'invalid_request');
    console.error(`token endpoint: ${error.error}: ${error.error_detail ?? error.error_description}`);
  });

  provider.on('server_error', (ctx, error) => {
    console.error(`server error on ${ctx.method} ${ctx.path}:`, error);
    if (!ctx.state.atTokenEndpoint) return;
    books.other_token_errors += 1;
    settle(ctx.state.refresh, false, 'server_error');
  });

  provider.on('grant.revoked', () => {
    books.grants_revoked += 1;
  });
}

async function readForm(req) {
  const chunks = [];
  let size = 0;
  for await (const chunk of req) {
    size += chunk.length;
    if (size > MAX_FORM) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

// In front of the library's token endpoint: count refreshes as they arrive, and hold them back
// BEFORE the library sees them. From its look-up of the refresh token to its mark "consumed" the
// library must not be slowed down, or it would itself grant one token twice.
function beforeToken(tokenPath) {
  return async (ctx, next) => {
    if (ctx.method !== 'POST' || ctx.path !== tokenPath) return next();
    ctx.state.atTokenEndpoint = true;

    const at = Date.now();
    const form = await readForm(ctx.req);
    if (form === undefined) {
      books.other_token_errors += 1;
      ctx.status = 413;
      ctx.set('connection', 'close');
      ctx.body = { error: 'invalid_request', error_description: 'request entity too large' };
      return undefined;
    }
    ctx.req.body = form; // the library takes a body that has been read from here

    if (new URLSearchParams(form).get('grant_type') === 'refresh_token') {
      const entry = { at_ms: at, ok: null, error: null, done_ms: null, delivered: false };
      ctx.state.refresh = entry;
      ctx.res.once('finish', () => { entry.delivered = true; });
      books.refresh_requests += 1;
      books.refreshes.push(entry);
      if (LATENCY_MS) await sleep(LATENCY_MS);
    }

    // A client that has gone away meanwhile changes nothing: its request is processed.
    return next();
  };
}

// --------------------------------------------------------------------------- our routes

function json(res, status, body, headers = {}) {
  const text = JSON.stringify(body);
  res.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...headers,
  });
  res.end(text);
}

async function echo(provider, req, res) {
  let bytes = 0;
  for await (const chunk of req) bytes += chunk.length;

  const bearer = /^Bearer +([^\s]+) *$/i.exec(req.headers.authorization ?? '')?.[1];
  const token = bearer && await provider.AccessToken.find(bearer);
  // As the library's own userinfo endpoint does: a token whose grant is gone is dead, too.
  const live = token?.isValid && await provider.Grant.find(token.grantId);
  if (!live) {
    books.api_unauthorized += 1;
    json(res, 401, { error: 'invalid_token' }, { 'www-authenticate': 'Bearer error="invalid_token"' });
    return;
  }
  books.api_ok += 1;
  json(res, 200, { ok: true, method: req.method, bytes });
}

// What a person would do in a browser: log in as the one account, agree to all that is asked.
// Each consent makes a new grant, also when the browser session has one already.
async function interact(provider, req, res) {
  const { prompt, params, session } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    await provider.interactionFinished(req, res, { login: { accountId: ACCOUNT } }, {
      mergeWithLastSubmission: false,
    });
    return;
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, {
    mergeWithLastSubmission: true,
  });
}

// ------------------------------------------------------------------------------- server

let handler = (req, res) => json(res, 503, { error: 'starting' });
const server = createServer((req, res) => handler(req, res));
// Longer than any client keeps an idle connection: the server must not be the one that hangs up.
server.keepAliveTimeout = 300_000;
server.headersTimeout = 310_000;
server.requestTimeout = 0;

let stopping = false;
function stop(code = 0) {
  if (stopping) return;
  stopping = true;
  server.close();
  server.closeAllConnections();
  process.exit(code);
}
process.on('SIGTERM', () => stop());
process.on('SIGINT', () => stop());
// The parent holds the other end of stdin; when it dies, however it dies, so do we.
process.stdin.on('end', () => stop());
process.stdin.on('close', () => stop());
process.stdin.on('error', () => stop());
process.stdin.resume();

await new Promise((resolve, reject) => {
  server.once('error', reject);
  server.listen({ port: PORT, host: '127.0.0.1', backlog: 4096 }, resolve);
});

const issuer = `http://127.0.0.1:${server.address().port}`;
const redirectUris = args['redirect-uri'].length ? args['redirect-uri'] : [`${issuer}/callback`];

const jwk = {
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: 'e2e', use: 'sig', alg: 'RS256',
};

const provider = new Provider(issuer, {
  adapter: adapterFor,
  jwks: { keys: [jwk] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  clients: [{
    client_id: args['client-id'],
    client_secret: args['client-secret'],
    application_type: 'native', // a loopback redirect URI matches on any port
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: redirectUris,
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  clientAuthMethods: ['client_secret_basic'],
  scopes: ['openid', 'offline_access', 'email', 'profile', 'api'],
  claims: { openid: ['sub'], email: ['email'], profile: ['name'] },
  pkce: { required: () => true, methods: ['S256'] },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: ACCESS_TTL,
    AuthorizationCode: 60,
    IdToken: 3600,
    RefreshToken: 30 * DAY,
    Grant: 365 * DAY,
    Interaction: 600,
    Session: DAY,
  },
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: async () => true },
    revocation: {
      enabled: true,
      allowedPolicy: async (ctx, client, token) => client.clientId === token.clientId,
    },
    rpInitiatedLogout: { enabled: false },
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: async (ctx, sub) => (sub === ACCOUNT ? {
    accountId: sub,
    claims: async () => ({ sub, email: 'e2e@example.com', name: 'E2E User' }),
  } : undefined),
  renderError: async (ctx, out) => {
    ctx.type = 'application/json';
    ctx.body = out;
  },
});

keepBooks(provider);
provider.use(beforeToken(provider.pathFor('token')));
const library = provider.callback();

handler = async (req, res) => {
  try {
    const { pathname, searchParams } = new URL(req.url, issuer);
    if (pathname === '/api/echo') await echo(provider, req, res);
    else if (pathname === '/books') json(res, 200, books);
    else if (pathname === '/callback') json(res, 200, Object.fromEntries(searchParams));
    else if (pathname.startsWith('/interaction/')) await interact(provider, req, res);
    else await library(req, res);
  } catch (error) {
    if (error.code === 'ECONNRESET') return; // the client hung up while it was sending
    console.error(`${req.method} ${req.url.split('?')[0]}:`, error);
    if (res.headersSent) res.destroy();
    else json(res, error.statusCode ?? 500, { error: error.error ?? 'server_error' });
  }
};

await provider.Client.find(args['client-id']); // the library checks a client only when it is used
const discovery = await fetch(`${issuer}/.well-known/openid-configuration`);
const metadata = await discovery.json();

process.stdout.write(`${JSON.stringify({
  issuer,
  authorization_endpoint: metadata.authorization_endpoint,
  token_endpoint: metadata.token_endpoint,
  revocation_endpoint: metadata.revocation_endpoint,
  introspection_endpoint: metadata.introspection_endpoint,
  api: `${issuer}/api/echo`,
  books: `${issuer}/books`,
  client_id: args['client-id'],
  client_secret: args['client-secret'],
  redirect_uri: redirectUris[0],
})}\n`);
