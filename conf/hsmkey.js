// For Node.js: NODE_OPTIONS=--require=/etc/hsmkey/hsmkey.js in the environment of the program.
//
// Node.js looks into a legacy RSA or EC object for a key's details, for its JWK, and for the length of an ECDSA signature in IEEE P1363's form. A
// key of an OpenSSL provider has no such object, and Node.js ends. Here the key itself is asked first: one in an HSM refuses to be written. Of such
// a key the public half is read anew, as a key of OpenSSL's own, and answers.
const crypto = require("crypto");

const { createPrivateKey, createPublicKey, sign } = crypto;
const signStream = crypto.Sign.prototype.sign;

const isInHsm = (key) => {
  try {
    key.export({ type: "pkcs8", format: "der" });
    return false;
  } catch (error) {
    return error.message.includes("stays in the HSM");
  }
};

// The private key of an argument in any of its forms; undefined for what is none, which Node.js is to complain about.
const privateKey = (argument) => {
  const key = argument?.key ?? argument;
  if (key instanceof crypto.KeyObject) return key.type === "private" ? key : undefined;
  if (!/-----BEGIN (RSA PRIVATE KEY|PRIVATE KEY|PKCS#11 PROVIDER URI)-----/.test(key)) return undefined;
  try {
    return createPrivateKey(argument);
  } catch {
    return undefined;
  }
};
const keyInHsm = (argument) => {
  const key = privateKey(argument);
  return key && isInHsm(key) ? key : undefined;
};
const publicHalf = (key) => createPublicKey(createPublicKey(key).export({ type: "spki", format: "pem" }));

crypto.createPublicKey = (argument) => {
  const key = keyInHsm(argument);
  return key ? publicHalf(key) : createPublicKey(argument);
};

// Its JWK is the same error as its DER. The class is first seen with the first key.
let watched = false;
crypto.createPrivateKey = (argument) => {
  const key = createPrivateKey(argument);
  if (!watched) {
    const prototype = Object.getPrototypeOf(key);
    const write = prototype.export;
    prototype.export = function (options) {
      const refused = options?.format === "jwk" && isInHsm(this);
      return write.call(this, refused ? { type: "pkcs8", format: "der" } : options);
    };
    watched = true;
  }
  return key;
};

// Any public key, for its class: the one of RFC 8037, appendix A.2.
const some = { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" };
const prototype = Object.getPrototypeOf(Object.getPrototypeOf(createPublicKey({ key: some, format: "jwk" })));
const details = Object.getOwnPropertyDescriptor(prototype, "asymmetricKeyDetails");
Object.defineProperty(prototype, "asymmetricKeyDetails", {
  ...details,
  get() {
    return details.get.call(this.type === "private" && isInHsm(this) ? publicHalf(this) : this);
  },
});

// r and s of an ECDSA signature in DER, one after the other, each as long as the curve's order.
const octets = { prime256v1: 32, secp384r1: 48, secp521r1: 66, secp256k1: 32 };
const p1363 = (der, size) => {
  const numbers = [];
  for (let at = der[1] & 0x80 ? 3 : 2; numbers.length < 2; at += 2 + der[at + 1]) {
    const number = der.subarray(at + 2, at + 2 + der[at + 1]);
    numbers.push(Buffer.concat([Buffer.alloc(size), number]).subarray(-size));
  }
  return Buffer.concat(numbers);
};
const sizeFor = (argument) => {
  const key = argument?.dsaEncoding === "ieee-p1363" ? keyInHsm(argument) : undefined;
  return key?.asymmetricKeyType === "ec" ? octets[key.asymmetricKeyDetails.namedCurve] : undefined;
};

crypto.sign = (algorithm, data, key, callback) => {
  const size = sizeFor(key);
  if (!size) return callback ? sign(algorithm, data, key, callback) : sign(algorithm, data, key);
  const der = { ...key, dsaEncoding: "der" };
  if (!callback) return p1363(sign(algorithm, data, der), size);
  return sign(algorithm, data, der, (error, made) => callback(error, made && p1363(made, size)));
};
crypto.Sign.prototype.sign = function (key, encoding) {
  const size = sizeFor(key);
  if (!size) return signStream.call(this, key, encoding);
  const made = p1363(signStream.call(this, { ...key, dsaEncoding: "der" }), size);
  return encoding && encoding !== "buffer" ? made.toString(encoding) : made;
};

require("module").syncBuiltinESMExports();
