// A provider that answers as Xero and Salesforce document it, as far as `sdks.mjs` and `sdks.py` ask. It rotates
// refresh tokens and keeps the books. Prints one line of JSON, and ends when standard input does.
import { createServer } from 'node:http';
import { randomBytes } from 'node:crypto';

const books = { refreshes: 0, refused: 0, rejected: 0, requests: [] };
const refreshTokens = new Set(['rt-xero', 'rt-salesforce']);
const accessTokens = new Set();
const contacts = Array.from({ length: 103 }, (_, n) => ({ ContactID: id(n), Name: `Contact ${n}` }));
const accounts = Array.from({ length: 5 }, (_, n) => ({ Id: `001${String(n).padStart(12, '0')}AAA`, Name: `Account ${n}` }));
let base;

function id(n) {
  return `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
}

function token(form) {
  const old = form.get('refresh_token');
  if (!refreshTokens.delete(old)) {
    books.refused += 1;
    return [400, { error: 'invalid_grant' }];
  }
  books.refreshes += 1;
  const [access, refresh] = [`at-${randomBytes(12).toString('hex')}`, `rt-${randomBytes(12).toString('hex')}`];
  accessTokens.add(access);
  refreshTokens.add(refresh);
  return [200, { access_token: access, refresh_token: refresh, token_type: 'Bearer', expires_in: 1800, instance_url: base, id: `${base}/id/1` }];
}

// https://developer.xero.com/documentation/api/accounting/contacts
function xero(request, url, body) {
  if (request.headers['xero-tenant-id'] !== id(7)) {
    return [403, { Title: 'Forbidden', Status: 403, Detail: 'AuthenticationUnsuccessful' }];
  }
  if (request.method === 'GET') {
    const page = Number(url.searchParams.get('page') ?? 1);
    const some = contacts.slice((page - 1) * 100, page * 100);
    return [200, { Id: id(1), Status: 'OK', Contacts: some, pagination: { page, pageSize: 100, pageCount: 2, itemCount: contacts.length } }];
  }
  const { Contacts } = JSON.parse(body);
  const made = Contacts.map((contact, n) => ({ ContactID: id(1000 + n), ContactStatus: 'ACTIVE', ...contact }));
  return [200, { Id: id(1), Status: 'OK', Contacts: made }];
}

// https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/dome_query.htm
function salesforce(request, url, body) {
  const [, version, rest] = url.pathname.match(/^\/services\/data\/(v\d+\.\d+)\/(.*)$/) ?? [];
  const records = (from, to) => accounts.slice(from, to).map((account) => ({
    attributes: { type: 'Account', url: `/services/data/${version}/sobjects/Account/${account.Id}` }, ...account,
  }));
  if (request.method === 'GET' && rest?.replace(/\/$/, '') === 'query') {
    return [200, { totalSize: 5, done: false, nextRecordsUrl: `/services/data/${version}/query/01gD0000002HU6KIAW-3`, records: records(0, 3) }];
  }
  if (request.method === 'GET' && rest === 'query/01gD0000002HU6KIAW-3') {
    return [200, { totalSize: 5, done: true, records: records(3, 5) }];
  }
  if (request.method === 'POST' && rest?.replace(/\/$/, '') === 'sobjects/Account' && JSON.parse(body).Name) {
    return [201, { id: '001D000000IqhSLIAZ', success: true, errors: [] }];
  }
  return [404, [{ errorCode: 'NOT_FOUND', message: 'The requested resource does not exist' }]];
}

function answer(request, url, body) {
  switch (url.pathname) {
    case '/token': return token(new URLSearchParams(body));
    case '/books': return [200, books];
    // The provider does not say when a session ends: administrators do.
    case '/expire': accessTokens.clear(); return [200, {}];
  }
  books.requests.push(`${request.method} ${request.url}`);
  const isXero = url.pathname.startsWith('/api.xro/');
  if (!accessTokens.has((request.headers.authorization ?? '').replace(/^Bearer /, ''))) {
    books.rejected += 1;
    return isXero
      ? [401, { Type: null, Title: 'Unauthorized', Status: 401, Detail: 'TokenExpired: token expired at 01/01/2026 00:00:00', Instance: id(2) }]
      : [401, [{ message: 'Session expired or invalid', errorCode: 'INVALID_SESSION_ID' }]];
  }
  return (isXero ? xero : salesforce)(request, url, body);
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const [status, body] = answer(request, new URL(request.url, base), Buffer.concat(chunks).toString());
  response.writeHead(status, { 'content-type': 'application/json;charset=UTF-8' });
  response.end(JSON.stringify(body));
});
server.listen(0, '127.0.0.1', () => {
  base = `http://127.0.0.1:${server.address().port}`;
  console.log(JSON.stringify({ base, tenant: id(7) }));
});
process.stdin.resume().on('end', () => process.exit(0));
