"""One life of a consumer, as an application would lead it with Apideck's SDK for Python. Says what came of
it as JSON. Server, key and application come from the environment."""

import json
import os

from apideck_unify import Apideck
from apideck_unify.utils import BackoffStrategy, RetryConfig

server = os.environ["SERVER"]
consumer = os.environ["CONSUMER"]
never = RetryConfig("none", BackoffStrategy(1, 1, 1, 1), False)
apideck = Apideck(
    server_url=server,
    api_key=os.environ["KEY"],
    app_id=os.environ["APP"],
    consumer_id=consumer,
    retry_config=never,
)
vault, connector = apideck.vault, apideck.connector
said = {}


def pages(page, field):
    ids = []
    while page is not None:
        ids += [getattr(it, "consumer_id", None) or it.id for it in getattr(page, field).data]
        page = page.next()
    return ids


def refused(act):
    try:
        act()
        return "nothing"
    except Exception as error:
        return f"{type(error).__name__} {error.status_code}: {error}"


metadata = {"account_name": "Acme", "user_name": "Kim", "email": "kim@example.test"}
created = vault.consumers.create(consumer_id="cust-1", metadata=metadata).create_consumer_response
said["created"] = [created.status_code, created.data.consumer_id, created.data.metadata.user_name]
for name in ["cust-2", "cust-3"]:
    vault.consumers.create(consumer_id=name)
said["pages"] = pages(vault.consumers.list(limit=2), "get_consumers_response")
said["filtered"] = pages(vault.consumers.list(filter_={"consumer_id": "cust-1"}), "get_consumers_response")
own = vault.consumers.get(consumer_id=consumer).get_consumer_response.data
said["connection"] = [own.services, own.connections[0].id, own.connections[0].state, own.connections[0].health]
updated = vault.consumers.update(consumer_id="cust-2", metadata={"user_name": "Lee"})
said["updated"] = updated.update_consumer_response.data.metadata.user_name
deleted = vault.consumers.delete(consumer_id="cust-3")
said["deleted"] = deleted.delete_consumer_response.data.consumer_id
said["missing"] = refused(lambda: vault.consumers.get(consumer_id="cust-3"))
said["cursor"] = refused(lambda: vault.consumers.list(cursor="nonsense"))

session = vault.sessions.create(
    session={
        "consumer_metadata": metadata,
        "redirect_uri": "https://app.example.test/back",
        "settings": {"unified_apis": ["accounting"], "session_length": "30m"},
    }
).create_session_response.data
said["session"] = [session.session_uri.startswith(f"{server}/session/"), session.session_token.count(".")]
said["redirect"] = refused(lambda: vault.sessions.create(session={"redirect_uri": "javascript:1"}))

listed = vault.connections.list(api="accounting").get_connections_response.data
said["connections"] = [[it.id, it.state, it.enabled] for it in listed]

said["connectors"] = pages(
    connector.connectors.list(limit=1, filter_={"unified_api": "accounting"}), "get_connectors_response"
)
one = connector.connectors.get(id="xero").get_connector_response.data
said["connector"] = [one.id, one.auth_type, one.unified_apis[0].id]
said["unknown"] = refused(lambda: connector.connectors.get(id="nonsense"))
said["apis"] = pages(connector.apis.list(), "get_apis_response")
api = connector.apis.get(id="vault").get_api_response.data
said["api"] = [api.id, api.type, api.status]
said["skipped"] = refused(
    lambda: vault.custom_fields.list(unified_api="accounting", service_id="sandbox", resource="invoices")
)
print(json.dumps(said, default=str))
