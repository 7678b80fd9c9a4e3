// The judge is judged here: node --test test.mjs

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const SERVER = fileURLToPath(new URL('server.mjs', import.meta.url));
const children = new Set();
after(() => children.forEach((child) => child.kill('SIGKILL')));

async function start(...flags) {
  const child = spawn(process.execPath, [SERVER, ...flags], { stdio: ['pipe', 'pipe', 'pipe'] });
  children.add(child);
  const ended = once(child, 'exit').then(([code, signal]) => {
    children.delete(child);
    return { code, signal };
  });
  const lines = [];
  let stderr = '';
  child.stderr.on('data', (chunk) => { stderr += chunk; });
  const reader = createInterface({ input: child.stdout });
  reader.on('line', (line) => lines.push(line));
  await Promise.race([
    once(reader, 'line'),
    ended.then(({ code }) => assert.fail(`the server ended with ${code}: ${stderr}`)),
  ]);
  return {
    ...JSON.parse(lines[0]),
    child,
    ended,
    lines,
    stderr: () => stderr,
    stop: async () => { child.stdin.end(); assert.deepEqual(await ended, { code: 0, signal: null }); },
  };
}

// As a browser: follow redirects, keep cookies (name, path), stop at the redirect URI.
async function browse(url, redirectUri, jar = new Map()) {
  for (let hops = 0; hops < 12; hops += 1) {
    if (url.startsWith(`${redirectUri}?`)) return { params: new URL(url).searchParams, hops, jar };
    const { pathname } = new URL(url);
    const cookie = [...jar.values()]
      .filter(({ path }) => pathname === path || pathname.startsWith(path.replace(/\/?$/, '/')))
      .map(({ pair }) => pair).join('; ');
    const reply = await fetch(url, { redirect: 'manual', headers: cookie ? { cookie } : {} });
    for (const line of reply.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split(/; */);
      const attribute = (name) => attributes.find((a) => a.toLowerCase().startsWith(`${name}=`))?.slice(name.length + 1);
      const path = attribute('path') ?? '/';
      const key = `${pair.split('=')[0]} ${path}`;
      const gone = new Date(attribute('expires') ?? '9999-01-01') <= new Date();
      if (gone) jar.delete(key); else jar.set(key, { pair, path });
    }
    const text = await reply.text();
    assert.ok(reply.headers.has('location'), `${reply.status} without a redirect: ${text}`);
    url = new URL(reply.headers.get('location'), url).href;
  }
  return assert.fail('too many redirects');
}

async function form(judge, url, fields) {
  const basic = Buffer.from(`${judge.client_id}:${judge.client_secret}`).toString('base64');
  const reply = await fetch(url, {
    method: 'POST',
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams(fields),
  });
  const text = await reply.text();
  return { status: reply.status, body: text ? JSON.parse(text) : undefined };
}

function authorizationUrl(judge, challenge, over = {}) {
  const url = new URL(judge.authorization_endpoint);
  const params = {
    response_type: 'code',
    client_id: judge.client_id,
    redirect_uri: judge.redirect_uri,
    scope: 'openid offline_access api',
    prompt: 'consent',
    state: 'the-state',
    code_challenge: challenge,
    code_challenge_method: 'S256',
    ...over,
  };
  for (const [name, value] of Object.entries(params)) if (value) url.searchParams.set(name, value);
  return url.href;
}

async function authorize(judge, { jar, ...over } = {}) {
  const verifier = randomBytes(32).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const redirect_uri = over.redirect_uri ?? judge.redirect_uri;
  const seen = await browse(authorizationUrl(judge, challenge, over), redirect_uri, jar);
  assert.equal(seen.params.get('error'), null, seen.params.toString());
  assert.equal(seen.params.get('state'), 'the-state');
  const { status, body } = await form(judge, judge.token_endpoint, {
    grant_type: 'authorization_code', code: seen.params.get('code'), redirect_uri, code_verifier: verifier,
  });
  assert.equal(status, 200, JSON.stringify(body));
  return { ...body, hops: seen.hops, jar: seen.jar };
}

const refresh = (judge, token) => form(judge, judge.token_endpoint, { grant_type: 'refresh_token', refresh_token: token });
const call = (judge, token, init = {}) => fetch(judge.api, { ...init, headers: { authorization: `Bearer ${token}` } });
const books = async (judge) => (await fetch(judge.books)).json();

test('code with PKCE, rotation, reuse revokes the grant, and the books say so', async () => {
  const judge = await start('--latency-ms', '20');
  assert.deepEqual(Object.keys(JSON.parse(judge.lines[0])), [
    'issuer', 'authorization_endpoint', 'token_endpoint', 'revocation_endpoint',
    'introspection_endpoint', 'api', 'books', 'client_id', 'client_secret', 'redirect_uri',
  ]);
  assert.deepEqual(await books(judge), {
    refresh_requests: 0, refresh_granted: 0, invalid_grant: 0, other_token_errors: 0,
    reuse_detected: 0, grants_revoked: 0, code_exchanges: 0, api_ok: 0, api_unauthorized: 0,
    refreshes: [],
  });

  const first = await authorize(judge);
  assert.equal(first.token_type, 'Bearer');
  assert.equal(first.expires_in, 40);
  assert.equal(first.scope, 'openid offline_access api');
  assert.ok(first.refresh_token && first.id_token);

  // the API
  const ok = await call(judge, first.access_token, { method: 'POST', body: 'x'.repeat(70_000) });
  assert.equal(ok.status, 200);
  assert.deepEqual(await ok.json(), { ok: true, method: 'POST', bytes: 70_000 });
  for (const headers of [{}, { authorization: 'Bearer nonsense' }, { authorization: 'Basic eDp5' }]) {
    const no = await fetch(judge.api, { headers });
    assert.equal(no.status, 401);
    assert.equal(no.headers.get('www-authenticate'), 'Bearer error="invalid_token"');
  }

  // rotation
  const began = Date.now();
  const second = (await refresh(judge, first.refresh_token)).body;
  assert.ok(Date.now() - began >= 19, 'the refresh was delayed');
  assert.ok(second.refresh_token);
  assert.notEqual(second.refresh_token, first.refresh_token);
  assert.notEqual(second.access_token, first.access_token);
  const third = (await refresh(judge, second.refresh_token)).body;
  assert.equal((await call(judge, third.access_token)).status, 200);
  assert.equal((await call(judge, first.access_token)).status, 200, 'older access tokens live on');

  // reuse: the second refresh token is spent
  const reuse = await refresh(judge, second.refresh_token);
  assert.equal(reuse.status, 400);
  assert.equal(reuse.body.error, 'invalid_grant');
  for (const { access_token } of [first, second, third]) {
    assert.equal((await call(judge, access_token)).status, 401, 'the whole grant is gone');
  }
  assert.equal((await refresh(judge, third.refresh_token)).body.error, 'invalid_grant');

  // another client secret is another kind of error
  const stranger = await refresh({ ...judge, client_secret: 'wrong' }, third.refresh_token);
  assert.equal(stranger.body.error, 'invalid_client');

  const { refreshes, ...counts } = await books(judge);
  assert.deepEqual(counts, {
    refresh_requests: 5, refresh_granted: 2, invalid_grant: 2, other_token_errors: 1,
    reuse_detected: 1, grants_revoked: 1, code_exchanges: 1, api_ok: 3, api_unauthorized: 6,
  });
  assert.deepEqual(refreshes.map(({ ok, error }) => [ok, error]), [
    [true, null], [true, null], [false, 'invalid_grant'], [false, 'invalid_grant'], [false, 'invalid_client'],
  ]);
  assert.ok(refreshes.every(({ at_ms, done_ms, delivered }) => at_ms >= began && done_ms >= at_ms + 19 && delivered));

  assert.equal(judge.lines.length, 1, 'stdout carries one line');
  assert.ok(!judge.stderr().includes(first.refresh_token));
  await judge.stop();
});

test('of many refreshes with one token at once, the library grants exactly one', async () => {
  const judge = await start();
  for (let round = 1; round <= 3; round += 1) {
    const { refresh_token } = await authorize(judge);
    const replies = await Promise.all(Array.from({ length: 40 }, () => refresh(judge, refresh_token)));
    const granted = replies.filter(({ status }) => status === 200);
    assert.equal(granted.length, 1);
    assert.equal((await call(judge, granted[0].body.access_token)).status, 401, 'and kills even that');
    assert.equal((await refresh(judge, granted[0].body.refresh_token)).body.error, 'invalid_grant');
    const book = await books(judge);
    assert.equal(book.refresh_granted, round);
    assert.equal(book.refresh_requests, 41 * round);
    assert.equal(book.invalid_grant, 40 * round);
    assert.ok(book.reuse_detected >= round && book.grants_revoked >= round);
  }
  await judge.stop();
});

test('what the library demands of an authorization request', async () => {
  const judge = await start('--latency-ms', '0', '--redirect-uri', 'http://127.0.0.1/vault/callback', '--client-secret', 'a secret: +%/~');
  judge.client_id = encodeURIComponent(judge.client_id); // RFC 6749, 2.3.1: form-encoded, then Basic
  judge.client_secret = encodeURIComponent(judge.client_secret);
  const redirect_uri = 'http://127.0.0.1:45678/vault/callback'; // any port of the loopback
  const tokens = await authorize(judge, { redirect_uri, prompt: 'login consent' });
  assert.ok(tokens.refresh_token);

  // without prompt=consent the library leaves offline_access out, without an error
  const none = await authorize(judge, { redirect_uri, prompt: undefined });
  assert.equal(none.refresh_token, undefined);
  assert.equal(none.scope, 'openid api');

  // plain OAuth, without openid
  const plain = await authorize(judge, { redirect_uri, scope: 'offline_access api' });
  assert.ok(plain.refresh_token && !plain.id_token);

  // the same browser twice: two grants, and the end of one is not the end of the other
  const again = await authorize(judge, { redirect_uri, jar: tokens.jar });
  await refresh(judge, again.refresh_token);
  await refresh(judge, again.refresh_token);
  assert.equal((await call(judge, again.access_token)).status, 401);
  assert.equal((await call(judge, tokens.access_token)).status, 200);
  assert.equal((await refresh(judge, tokens.refresh_token)).status, 200);

  // PKCE is required, and S256
  for (const over of [{ code_challenge: undefined, code_challenge_method: undefined }, { code_challenge_method: 'plain' }]) {
    const { params } = await browse(authorizationUrl(judge, 'c'.repeat(43), { redirect_uri, ...over }), redirect_uri);
    assert.equal(params.get('error'), 'invalid_request');
  }
  await judge.stop();
});

test('introspection and revocation', async () => {
  const judge = await start('--latency-ms', '0');
  const tokens = await authorize(judge);
  const active = async (token) => (await form(judge, judge.introspection_endpoint, { token })).body.active;
  assert.equal(await active(tokens.access_token), true);
  assert.equal(await active(tokens.refresh_token), true);
  const revoked = await form(judge, judge.revocation_endpoint, { token: tokens.refresh_token });
  assert.equal(revoked.status, 200);
  assert.equal(await active(tokens.access_token), false);
  assert.equal((await call(judge, tokens.access_token)).status, 401);
  assert.equal((await books(judge)).grants_revoked, 1);

  // an access token's revocation takes the refresh token with it
  const more = await authorize(judge);
  assert.equal((await form(judge, judge.revocation_endpoint, { token: more.access_token })).status, 200);
  assert.equal(await active(more.refresh_token), false);
  await judge.stop();
});

test('an access token dies on time', async () => {
  const judge = await start('--latency-ms', '0', '--access-ttl', '2');
  const tokens = await authorize(judge);
  assert.equal(tokens.expires_in, 2);
  assert.equal((await call(judge, tokens.access_token)).status, 200);
  await sleep(2050);
  assert.equal((await call(judge, tokens.access_token)).status, 401);
  const { body } = await refresh(judge, tokens.refresh_token);
  assert.equal((await call(judge, body.access_token)).status, 200);
  await judge.stop();
});

test('a refresh is processed even if its client goes away', async () => {
  const judge = await start('--latency-ms', '300');
  const { refresh_token } = await authorize(judge);
  const gone = new AbortController();
  const basic = Buffer.from(`${judge.client_id}:${judge.client_secret}`).toString('base64');
  const lost = fetch(judge.token_endpoint, {
    method: 'POST',
    signal: gone.signal,
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token }),
  });
  setTimeout(() => gone.abort(), 120);
  await assert.rejects(lost);
  assert.deepEqual((await books(judge)).refreshes.map(({ ok, delivered }) => [ok, delivered]), [[null, false]]);
  await sleep(400);
  assert.deepEqual((await books(judge)).refreshes.map(({ ok, delivered }) => [ok, delivered]), [[true, false]]);
  assert.equal((await refresh(judge, refresh_token)).body.error, 'invalid_grant');
  assert.equal((await books(judge)).reuse_detected, 1);
  await judge.stop();
});

test('nothing that lives is evicted: far more entries than the library\'s own store keeps', async () => {
  const judge = await start('--latency-ms', '0', '--access-ttl', '600');
  const quiet = await authorize(judge);
  let { refresh_token } = await authorize(judge);
  for (let turn = 0; turn < 1200; turn += 1) {
    ({ body: { refresh_token } } = await refresh(judge, refresh_token));
    assert.ok(refresh_token);
  }
  assert.equal((await call(judge, quiet.access_token)).status, 200);
  assert.equal((await refresh(judge, quiet.refresh_token)).status, 200);
  assert.equal((await books(judge)).refresh_granted, 1201);
  await judge.stop();
});

test('300 calls at once, again and again', async () => {
  const judge = await start();
  const { access_token } = await authorize(judge);
  for (let round = 0; round < 10; round += 1) {
    const replies = await Promise.all(Array.from({ length: 300 }, async () => {
      const reply = await call(judge, access_token, { method: 'PUT', body: 'hello' });
      await reply.arrayBuffer();
      return reply.status;
    }));
    assert.ok(replies.every((status) => status === 200));
  }
  assert.equal((await books(judge)).api_ok, 3000);
  await judge.stop();
});

test('ends on SIGTERM with connections open, and refuses wrong flags', async () => {
  const judge = await start('--latency-ms', '5000');
  const { refresh_token } = await authorize(judge);
  const hanging = assert.rejects(refresh(judge, refresh_token));
  await sleep(100);
  judge.child.kill('SIGTERM');
  assert.deepEqual(await judge.ended, { code: 0, signal: null });
  await hanging;

  for (const flags of [['--access-ttl', 'x'], ['--no-such-flag'], ['--redirect-uri', 'http://example.com/cb'], ['--client-secret', 'é']]) {
    const wrong = spawn(process.execPath, [SERVER, ...flags], { stdio: ['pipe', 'ignore', 'ignore'] });
    assert.notEqual((await once(wrong, 'exit'))[0], 0, flags.join(' '));
  }
});
