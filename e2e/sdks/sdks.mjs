// xero-node and jsforce, unmodified, with nothing changed but base URL and token.
import assert from 'node:assert/strict';
import jsforce from 'jsforce';
import { XeroClient } from 'xero-node';

const { GATEWAY, API_KEY, DOUBLE, TENANT } = process.env;
const expire = () => fetch(`${DOUBLE}/expire`, { method: 'POST' });

const xero = new XeroClient();
xero.setTokenSet({ access_token: API_KEY, token_type: 'Bearer' });
xero.accountingApi.basePath = `${GATEWAY}/proxy/acme/accounting/xero/api.xro/2.0`;
const page = async (number) => {
  const none = undefined;
  const { body } = await xero.accountingApi.getContacts(TENANT, none, none, none, none, number);
  return body.contacts;
};
// The token in the vault has run out: many at once.
const firsts = await Promise.all(Array.from({ length: 10 }, () => page(1)));
for (const first of firsts) assert.equal(first.length, 100);
// The provider ends the session, whatever it said about its life.
await expire();
const second = await page(2);
assert.deepEqual(second.map((contact) => contact.name), ['Contact 100', 'Contact 101', 'Contact 102']);
const { body } = await xero.accountingApi.createContacts(TENANT, { contacts: [{ name: 'Bruce Banner' }] });
assert.equal(body.contacts[0].name, 'Bruce Banner');
assert.equal(body.contacts[0].contactStatus, 'ACTIVE');

const salesforce = new jsforce.Connection({
  instanceUrl: `${GATEWAY}/proxy/acme/crm/salesforce`,
  accessToken: API_KEY,
});
const names = (result) => result.records.map((record) => record.Name);
const result = await salesforce.query('SELECT Id, Name FROM Account');
assert.deepEqual(names(result), ['Account 0', 'Account 1', 'Account 2']);
await expire();
const more = await salesforce.queryMore(result.nextRecordsUrl);
assert.deepEqual(names(more), ['Account 3', 'Account 4']);
const made = await salesforce.sobject('Account').create({ Name: 'Express Logistics' });
assert.equal(made.success, true);
console.log('ok');
