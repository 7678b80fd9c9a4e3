"""simple-salesforce, unmodified, with nothing changed but instance and session id. It always speaks TLS."""

import os
import urllib.request

from simple_salesforce import Salesforce


def expire():
    urllib.request.urlopen(urllib.request.Request(os.environ["DOUBLE"] + "/expire", method="POST")).read()


gateway = os.environ["GATEWAY"].removeprefix("https://")
salesforce = Salesforce(instance=gateway + "/proxy/acme/crm/salesforce", session_id=os.environ["API_KEY"])

# The token in the vault has run out.
first = salesforce.query("SELECT Id, Name FROM Account")
assert [record["Name"] for record in first["records"]] == ["Account 0", "Account 1", "Account 2"], first
# The provider ends the session, whatever it said about its life.
expire()
more = salesforce.query_more(first["nextRecordsUrl"], identifier_is_url=True)
assert [record["Name"] for record in more["records"]] == ["Account 3", "Account 4"], more
everything = [record["Name"] for record in salesforce.query_all_iter("SELECT Id, Name FROM Account")]
assert everything == [f"Account {number}" for number in range(5)], everything
made = salesforce.Account.create({"Name": "Express Logistics"})
assert made["success"] is True, made
print("ok")
