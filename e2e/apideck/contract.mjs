// One life of a consumer, as an application would lead it with Apideck's SDK. Says what came of it as JSON.
// Usage: node contract.mjs unify|unify-strict; server, key and application come from the environment.

const strict = process.argv[2] === "unify-strict";
const { Apideck } = await import(process.argv[2]);
const { SERVER, KEY, APP, CONSUMER } = process.env;
const apideck = new Apideck({
  serverURL: SERVER,
  apiKey: KEY,
  appId: APP,
  consumerId: CONSUMER,
  retryConfig: { strategy: "none" },
});
const { vault, connector } = apideck;
const said = {};

async function pages(list) {
  const ids = [];
  for await (const page of await list) {
    // The current SDK hands the answer out as it is, the strict one too.
    const answer = page.result ?? page;
    const data = Object.values(answer).find((it) => it && Array.isArray(it.data)).data;
    ids.push(...data.map((it) => it.consumerId ?? it.id));
  }
  return ids;
}

async function refused(act) {
  try {
    await act();
    return "nothing";
  } catch (error) {
    return `${error.name ?? error.constructor.name} ${error.statusCode}: ${error.message}`;
  }
}

const metadata = { accountName: "Acme", userName: "Kim", email: "kim@example.test" };
const created = (
  await vault.consumers.create(
    strict
      ? { consumer: { consumerId: "cust:1/ä", metadata } }
      : { createConsumerRequest: { consumerId: "cust:1/ä", metadata } },
  )
).createConsumerResponse;
said.created = [created.statusCode, created.data.consumerId, created.data.metadata.userName];
for (const id of ["cust:2", "cust:3"]) {
  await vault.consumers.create(
    strict ? { consumer: { consumerId: id } } : { createConsumerRequest: { consumerId: id } },
  );
}
said.pages = await pages(vault.consumers.list({ limit: 2 }));
// The strict SDK knows no such filter, and leaves it out.
if (!strict) said.filtered = await pages(vault.consumers.list({ filter: { consumerId: "cust:1" } }));
const got = (await vault.consumers.get({ consumerId: "cust:1/ä" })).getConsumerResponse;
said.got = [got.data.consumerId, got.data.created instanceof Date || typeof got.data.created, got.data.connections.length];
const own = (await vault.consumers.get({ consumerId: CONSUMER })).getConsumerResponse.data;
said.connection = [own.services, own.connections[0].id, own.connections[0].state, own.connections[0].health];
const updated = (
  await vault.consumers.update({
    consumerId: "cust:2",
    updateConsumerRequest: { metadata: { userName: "Lee" } },
  })
).updateConsumerResponse;
said.updated = updated.data.metadata.userName;
said.deleted = (await vault.consumers.delete({ consumerId: "cust:3" })).deleteConsumerResponse.data.consumerId;
said.missing = await refused(() => vault.consumers.get({ consumerId: "cust:3" }));
said.cursor = await refused(() => pages(vault.consumers.list({ cursor: "nonsense" })));

const session = (
  await vault.sessions.create({
    session: {
      consumerMetadata: metadata,
      redirectUri: "https://app.example.test/back",
      settings: { unifiedApis: ["accounting"], sessionLength: "30m" },
      theme: { vaultName: "Acme", primaryColor: "#286efa" },
    },
  })
).createSessionResponse.data;
said.session = [session.sessionUri.startsWith(`${SERVER}/session/`), session.sessionToken.split(".").length];
said.redirect = await refused(() => vault.sessions.create({ session: { redirectUri: "javascript:1" } }));

const all = (await vault.connections.list({ api: "accounting" })).getConnectionsResponse;
said.connections = all.data.map((it) => [it.id, it.state, it.enabled]);
said.configured = (await vault.connections.list({ configured: false })).getConnectionsResponse.data.length;

said.connectors = await pages(connector.connectors.list({ limit: 1, filter: { unifiedApi: "accounting" } }));
const one = (await connector.connectors.get({ id: "xero" })).getConnectorResponse.data;
said.connector = [one.id, one.authType, one.unifiedApis[0].id];
said.unknown = await refused(() => connector.connectors.get({ id: "nonsense" }));
said.apis = await pages(connector.apis.list({}));
const api = (await connector.apis.get({ id: "vault" })).getApiResponse.data;
said.api = [api.id, api.type, api.status];
said.skipped = await refused(() =>
  vault.customFields.list({ unifiedApi: "accounting", serviceId: "sandbox", resource: "invoices" }),
);

console.log(JSON.stringify(said));
