const crypto = require("crypto");
const fs = require("fs");

const key = crypto.createPrivateKey(fs.readFileSync("/etc/pki/server.key"));
const document = fs.readFileSync("document");
fs.writeFileSync("sha1.sig", crypto.sign("sha1", document, key));
fs.writeFileSync("sha256.sig", crypto.sign("sha256", document, key));
