/* hsmkey.h: the names that a C program may use of hsmkey. C99 and C++; nothing is declared, so nothing has to be linked.
 *
 * hsmkey is an OpenSSL provider and engine for private keys in an HSM. A program that uses it through openssl.cnf needs none of this; one
 * that loads it with OSSL_PROVIDER_load_ex(), calls ENGINE_ctrl_cmd() or wants to tell its errors apart does.
 */
#ifndef HSMKEY_H
#define HSMKEY_H

/* Error reasons. An error of hsmkey stands in OpenSSL's queue with the provider's or the engine's own library number; ERR_GET_REASON() gives one of
 * these. The numbers do not change. */
#define HSMKEY_R_INTERNAL              101 /* internal error in hsmkey */
#define HSMKEY_R_INVALID_ARGUMENT      102 /* invalid argument */
#define HSMKEY_R_HOST_UNUSABLE         103 /* the application's libcrypto cannot be used */
#define HSMKEY_R_NOT_INITIALISED       104 /* the operation was not initialised */
#define HSMKEY_R_OPERATION_UNSUPPORTED 105 /* the operation is not supported */

#define HSMKEY_R_BAD_DIRECTIVE         110 /* bad value of a configuration directive */
#define HSMKEY_R_NO_MODULE             111 /* no PKCS#11 module is configured */
#define HSMKEY_R_ENVIRONMENT_IGNORED   112 /* the environment is ignored because the process is privileged */

#define HSMKEY_R_BAD_URI               120 /* not a valid pkcs11: URI */
#define HSMKEY_R_BAD_KEY_FILE          121 /* the key file is damaged */
#define HSMKEY_R_KEY_STAYS_IN_HSM      122 /* the private key stays in the HSM */

#define HSMKEY_R_PIN_MISSING           130 /* no PIN is configured */
#define HSMKEY_R_PIN_SOURCE            131 /* the PIN cannot be read from its source */
#define HSMKEY_R_PIN_REJECTED          132 /* the HSM rejected the PIN */
#define HSMKEY_R_PIN_LOCKED            133 /* the HSM has locked the user */
#define HSMKEY_R_PIN_FORMAT            134 /* the PIN does not have the form user:password */
#define HSMKEY_R_IDENTITY_CONFLICT     135 /* the token is logged in with another PIN */

#define HSMKEY_R_MODULE_LOAD           140 /* the PKCS#11 module cannot be loaded */
#define HSMKEY_R_MODULE_INVALID        141 /* the file is not a PKCS#11 module */
#define HSMKEY_R_MODULE_INITIALISE     142 /* the PKCS#11 module cannot reach its HSM */
#define HSMKEY_R_TOKEN_NOT_FOUND       143 /* no such token */
#define HSMKEY_R_TOKEN_AMBIGUOUS       144 /* there are several tokens and none was named */

#define HSMKEY_R_KEY_NOT_FOUND         150 /* no such key in the HSM */
#define HSMKEY_R_KEY_AMBIGUOUS         151 /* several keys match */
#define HSMKEY_R_KEY_MISMATCH          152 /* the key in the HSM is not the one the key file was written for */
#define HSMKEY_R_KEY_UNSUPPORTED       153 /* the type of the key is not supported */
#define HSMKEY_R_KEY_NOT_PERMITTED     154 /* the HSM does not permit this use of the key */

#define HSMKEY_R_HSM_CALL              160 /* a PKCS#11 call failed */
#define HSMKEY_R_HSM_UNAVAILABLE       161 /* the HSM did not recover in time */
#define HSMKEY_R_SESSIONS_EXHAUSTED    162 /* no PKCS#11 session became free in time */
#define HSMKEY_R_MECHANISM_UNSUPPORTED 163 /* the HSM does not offer the mechanism */

#define HSMKEY_R_DIGEST_MISSING        170 /* no digest was given */
#define HSMKEY_R_DIGEST_UNSUPPORTED    171 /* the digest is not supported */
#define HSMKEY_R_PADDING_UNSUPPORTED   172 /* the padding is not supported */
#define HSMKEY_R_SALT_LENGTH           173 /* bad PSS salt length */
#define HSMKEY_R_DATA_LENGTH           174 /* the data does not have the right length */
#define HSMKEY_R_BUFFER_TOO_SMALL      175 /* the output buffer is too small */
#define HSMKEY_R_DECRYPTION            176 /* the data cannot be decrypted with the key */

/* Directives of the provider's section in openssl.cnf, and names of the parameters of OSSL_PROVIDER_load_ex(). */
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_PATH                       "pkcs11-module-path"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_INIT_ARGS                  "pkcs11-module-init-args"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_TOKEN_PIN                  "pkcs11-module-token-pin"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_LOAD_BEHAVIOR              "pkcs11-module-load-behavior"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_LOGIN_BEHAVIOR             "pkcs11-module-login-behavior"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_DEFAULT_SLOT_ID            "pkcs11-module-default-slot-id"
#define HSMKEY_DIRECTIVE_HSMKEY_TOKEN                             "hsmkey-token"
#define HSMKEY_DIRECTIVE_HSMKEY_MAX_SESSIONS                      "hsmkey-max-sessions"
#define HSMKEY_DIRECTIVE_HSMKEY_WARM_SESSIONS                     "hsmkey-warm-sessions"
#define HSMKEY_DIRECTIVE_HSMKEY_ASYNC_WORKERS                     "hsmkey-async-workers"
#define HSMKEY_DIRECTIVE_HSMKEY_RETRY_TIME                        "hsmkey-retry-time"
#define HSMKEY_DIRECTIVE_HSMKEY_LOG                               "hsmkey-log"
#define HSMKEY_DIRECTIVE_HSMKEY_ALLOW_MODULE_PATH                 "hsmkey-allow-module-path"
#define HSMKEY_DIRECTIVE_HSMKEY_SHA1                              "hsmkey-sha1"
#define HSMKEY_DIRECTIVE_HSMKEY_RUNTIME_DIRECTORY                 "hsmkey-runtime-directory"
#define HSMKEY_DIRECTIVE_HSMKEY_REFERENCE_FILES                   "hsmkey-reference-files"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_CACHE_SESSIONS             "pkcs11-module-cache-sessions"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_CACHE_PINS                 "pkcs11-module-cache-pins"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_CACHE_KEYS                 "pkcs11-module-cache-keys"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_QUIRKS                     "pkcs11-module-quirks"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_ALLOW_EXPORT               "pkcs11-module-allow-export"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_ENCODE_PROVIDER_URI_TO_PEM "pkcs11-module-encode-provider-uri-to-pem"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_BLOCK_OPERATIONS           "pkcs11-module-block-operations"
#define HSMKEY_DIRECTIVE_PKCS11_MODULE_ASSUME_FIPS                "pkcs11-module-assume-fips"

/* The engine: its id where none is asked for, and its controls, for ENGINE_ctrl_cmd_string() and ENGINE_ctrl_cmd(). The directives are
 * controls too. */
#define HSMKEY_ENGINE_ID                    "hsmkey"
#define HSMKEY_CONTROL_SO_PATH              "SO_PATH"
#define HSMKEY_CONTROL_MODULE_PATH          "MODULE_PATH"
#define HSMKEY_CONTROL_PIN                  "PIN"
#define HSMKEY_CONTROL_VERBOSE              "VERBOSE"
#define HSMKEY_CONTROL_QUIET                "QUIET"
#define HSMKEY_CONTROL_LOAD_CERT_CTRL       "LOAD_CERT_CTRL"
#define HSMKEY_CONTROL_INIT_ARGS            "INIT_ARGS"
#define HSMKEY_CONTROL_SET_USER_INTERFACE   "SET_USER_INTERFACE"
#define HSMKEY_CONTROL_SET_CALLBACK_DATA    "SET_CALLBACK_DATA"
#define HSMKEY_CONTROL_FORCE_LOGIN          "FORCE_LOGIN"
#define HSMKEY_CONTROL_RE_ENUMERATE         "RE_ENUMERATE"
#define HSMKEY_CONTROL_VLOG_A               "VLOG_A"
#define HSMKEY_CONTROL_DEBUG_LEVEL          "DEBUG_LEVEL"
#define HSMKEY_CONTROL_REFERENCE_BY_MODULUS "REFERENCE_BY_MODULUS"
#define HSMKEY_CONTROL_ID                   "ID"

/* Key files. A reference file is an RSA private key (PKCS#1 or PKCS#8) whose private exponent begins with the marker and goes on with
 * the pkcs11: URI of the key. A pointer file is a PEM block of this label: SEQUENCE { VisibleString description, UTF8String uri }. */
#define HSMKEY_REFERENCE_MARKER    "hsmkey:1:"
#define HSMKEY_POINTER_LABEL       "PKCS#11 PROVIDER URI"
#define HSMKEY_POINTER_DESCRIPTION "PKCS#11 Provider URI v1.0"

/* The query attribute of a pkcs11: URI that holds the public key: SubjectPublicKeyInfo in base64url without padding. */
#define HSMKEY_URI_PUBLIC "x-hsmkey-public"

#endif
