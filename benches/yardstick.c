/*
 * The smallest provider that signs RSA PKCS#1 v1.5 through PKCS#11: what OpenSSL's own share of a signature costs, and no more. It is
 * bound to the libcrypto that loads it as hsmkey is, and hashes there. It loses its key with the first lost session, dies of a fork,
 * knows SHA-256 only, and checks nothing.
 *
 * From the environment: YARDSTICK_MODULE, YARDSTICK_LABEL (of the private key), YARDSTICK_PIN.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <p11-kit/pkcs11.h>
#include <stdlib.h>
#include <string.h>

#define HOST(function) static __typeof__(function) *host_##function
HOST(OSSL_LIB_CTX_new_child); HOST(EVP_MD_fetch); HOST(EVP_MD_free); HOST(EVP_MD_CTX_new); HOST(EVP_MD_CTX_free);
HOST(EVP_DigestInit_ex); HOST(EVP_DigestUpdate); HOST(EVP_DigestFinal_ex); HOST(EVP_MD_CTX_copy_ex);
#define BIND(function) host_##function = dlsym(host, #function)

static CK_FUNCTION_LIST *hsm;
static CK_SLOT_ID slot;
static CK_OBJECT_HANDLE handle;
static __thread CK_SESSION_HANDLE session;
static OSSL_LIB_CTX *child;
static const unsigned char prefix[] = { 0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32 };

typedef struct { size_t size; } Key;
typedef struct { Key *key; EVP_MD *md; EVP_MD_CTX *hash; } Context;

static CK_SESSION_HANDLE open_session(void)
{
    if (session == 0)
        hsm->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    return session;
}

static void find_key(void)
{
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    char *label = getenv("YARDSTICK_LABEL"), *pin = getenv("YARDSTICK_PIN");
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof(class) }, { CKA_LABEL, label, strlen(label) } };
    CK_RV (*list)(CK_FUNCTION_LIST **) = dlsym(dlopen(getenv("YARDSTICK_MODULE"), RTLD_NOW), "C_GetFunctionList");
    CK_ULONG count = 1;

    list(&hsm);
    hsm->C_Initialize(&arguments);
    hsm->C_GetSlotList(CK_TRUE, &slot, &count);
    hsm->C_Login(open_session(), CKU_USER, (CK_BYTE *)pin, strlen(pin));
    hsm->C_FindObjectsInit(session, template, 2);
    hsm->C_FindObjects(session, &handle, 1, &count);
    hsm->C_FindObjectsFinal(session);
}

static void *key_new(void *provider) { (void)provider; return calloc(1, sizeof(Key)); }
static void key_free(void *key) { free(key); }
static int key_has(const void *key, int selection) { (void)key; (void)selection; return 1; }
static const OSSL_PARAM *key_types(int selection) { static const OSSL_PARAM types[] = { OSSL_PARAM_BN("n", NULL, 0), OSSL_PARAM_END }; (void)selection; return types; }

static int key_import(void *key, int selection, const OSSL_PARAM params[])
{
    (void)selection;
    for (; params->key != NULL; params++)
        if (strcmp(params->key, "n") == 0)
            ((Key *)key)->size = params->data_size;
    if (hsm == NULL)
        find_key();
    return handle != 0;
}

static void *sign_new(void *provider, const char *query) { (void)provider; (void)query; return calloc(1, sizeof(Context)); }
static void sign_free(void *ctx) { host_EVP_MD_CTX_free(((Context *)ctx)->hash); host_EVP_MD_free(((Context *)ctx)->md); free(ctx); }

static int sign_init(void *ctx, const char *name, void *key, const OSSL_PARAM params[])
{
    Context *c = ctx;

    (void)params;
    if (key != NULL)
        c->key = key;
    if (c->md == NULL) {
        c->md = host_EVP_MD_fetch(child, name, NULL);
        c->hash = host_EVP_MD_CTX_new();
    }
    return host_EVP_DigestInit_ex(c->hash, c->md, NULL);
}

static int sign_update(void *ctx, const unsigned char *data, size_t length) { return host_EVP_DigestUpdate(((Context *)ctx)->hash, data, length); }

static int sign_final(void *ctx, unsigned char *signature, size_t *length, size_t room)
{
    Context *c = ctx;
    CK_MECHANISM mechanism = { CKM_RSA_PKCS, NULL, 0 };
    unsigned char info[sizeof(prefix) + EVP_MAX_MD_SIZE];
    CK_ULONG made = room;

    *length = c->key->size;
    if (signature == NULL)
        return 1;
    memcpy(info, prefix, sizeof(prefix));
    return host_EVP_DigestFinal_ex(c->hash, info + sizeof(prefix), NULL) && hsm->C_SignInit(open_session(), &mechanism, handle) == CKR_OK
        && hsm->C_Sign(session, info, sizeof(prefix) + 32, signature, &made) == CKR_OK;
}

static int sign_at_once(void *ctx, unsigned char *signature, size_t *length, size_t room, const unsigned char *data, size_t size)
{
    return (signature == NULL || sign_update(ctx, data, size)) && sign_final(ctx, signature, length, room);
}

static void *sign_dup(void *ctx) { Context *c = ctx, *d = calloc(1, sizeof(*d)); d->key = c->key; d->hash = host_EVP_MD_CTX_new(); host_EVP_MD_CTX_copy_ex(d->hash, c->hash); return d; }

#define F(id, function) { id, (void (*)(void))function }
static const OSSL_DISPATCH keymgmt[] = { F(OSSL_FUNC_KEYMGMT_NEW, key_new), F(OSSL_FUNC_KEYMGMT_FREE, key_free), F(OSSL_FUNC_KEYMGMT_HAS, key_has), F(OSSL_FUNC_KEYMGMT_IMPORT, key_import), F(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, key_types), { 0, NULL } };
static const OSSL_DISPATCH sign[] = { F(OSSL_FUNC_SIGNATURE_NEWCTX, sign_new), F(OSSL_FUNC_SIGNATURE_FREECTX, sign_free), F(OSSL_FUNC_SIGNATURE_DUPCTX, sign_dup), F(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, sign_init), F(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, sign_update), F(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, sign_final), F(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, sign_at_once), { 0, NULL } };
static const OSSL_ALGORITHM keymgmts[] = { { "RSA:rsaEncryption", "provider=yardstick", keymgmt, NULL }, { NULL, NULL, NULL, NULL } };
static const OSSL_ALGORITHM signs[] = { { "RSA:rsaEncryption", "provider=yardstick", sign, NULL }, { NULL, NULL, NULL, NULL } };
static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache) { (void)provider; *no_cache = 0; return operation == OSSL_OP_KEYMGMT ? keymgmts : operation == OSSL_OP_SIGNATURE ? signs : NULL; }
static const OSSL_DISPATCH provider[] = { F(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query), { 0, NULL } };

int OSSL_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
    Dl_info info;
    void *host = dladdr((void *)in[0].function, &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : NULL;

    BIND(OSSL_LIB_CTX_new_child); BIND(EVP_MD_fetch); BIND(EVP_MD_free); BIND(EVP_MD_CTX_new); BIND(EVP_MD_CTX_free);
    BIND(EVP_DigestInit_ex); BIND(EVP_DigestUpdate); BIND(EVP_DigestFinal_ex); BIND(EVP_MD_CTX_copy_ex);
    child = host_OSSL_LIB_CTX_new_child(core, in);
    *out = provider;
    *context = child;
    return child != NULL;
}
