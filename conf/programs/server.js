const fs = require("fs");
const https = require("https");

const options = () => ({ cert: fs.readFileSync("/etc/pki/server.pem"), key: fs.readFileSync("/etc/pki/server.key") });
const server = https.createServer(options(), (_, response) => response.end("served\n"));
server.listen(8443, "127.0.0.1");
process.on("SIGHUP", () => {
  server.setSecureContext(options());
  console.log("loaded again");
});
