/*
 * The smallest provider that signs RSA PKCS#1 v1.5 through PKCS#11 for real applications: OpenSSL's own share of a signature, and no more.
 * It is bound to the libcrypto that loads it as hsmkey is, and hashes there; it refuses to export the private half, and says so; it keeps
 * off the error queue what the module leaves there. It loses its key with the first lost session, knows SHA-256 only, and checks nothing.
 * From the environment: YARDSTICK_MODULE, YARDSTICK_LABEL (of the private key), YARDSTICK_PIN.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/core_dispatch.h>
#include <openssl/evp.h>
#include <p11-kit/pkcs11.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS(X) X(OSSL_LIB_CTX_new_child) X(EVP_MD_fetch) X(EVP_MD_free) X(EVP_MD_CTX_new) X(EVP_MD_CTX_free) \
    X(EVP_MD_CTX_copy_ex) X(EVP_DigestInit_ex) X(EVP_DigestUpdate) X(EVP_DigestFinal_ex)
#define DECLARE(function) static __typeof__(function) *host_##function;
#define BIND(function) host_##function = dlsym(host, #function);
FUNCTIONS(DECLARE)

typedef struct { size_t size; } Key;
typedef struct { Key *key; EVP_MD *md; EVP_MD_CTX *hash; } Context;
static const OSSL_CORE_HANDLE *core;
static OSSL_FUNC_core_new_error_fn *new_error;
static OSSL_FUNC_core_vset_error_fn *vset_error;
static OSSL_FUNC_core_set_error_mark_fn *set_mark;
static OSSL_FUNC_core_pop_error_to_mark_fn *pop_to_mark;
static OSSL_LIB_CTX *child;
static CK_FUNCTION_LIST *hsm;
static CK_SLOT_ID slot;
static CK_OBJECT_HANDLE handle;
static __thread CK_SESSION_HANDLE session;
static const unsigned char prefix[] = { 0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32 };

static CK_SESSION_HANDLE open_session(void)
{
    return session != 0 || hsm->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK ? session : 0;
}
static void find_key(void)
{
    char *label = getenv("YARDSTICK_LABEL"), *pin = getenv("YARDSTICK_PIN");
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof(class) }, { CKA_LABEL, label, strlen(label) } };
    CK_RV (*list)(CK_FUNCTION_LIST **) = dlsym(dlopen(getenv("YARDSTICK_MODULE"), RTLD_NOW), "C_GetFunctionList");
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;

    list(&hsm);
    hsm->C_Initialize(&arguments);
    hsm->C_GetSlotList(CK_TRUE, slots, &count);
    slot = slots[0];
    hsm->C_Login(open_session(), CKU_USER, (CK_BYTE *)pin, strlen(pin));
    hsm->C_FindObjectsInit(session, template, 2);
    hsm->C_FindObjects(session, &handle, 1, &count);
    hsm->C_FindObjectsFinal(session);
}
static int refuse(uint32_t reason, ...) { va_list none; va_start(none, reason); new_error(core); vset_error(core, reason, NULL, none); va_end(none); return 0; }
static void *key_new(void *provider) { return provider == NULL ? NULL : calloc(1, sizeof(Key)); }
static int key_has(const void *key, int selection) { return key != NULL && selection != 0; }
static int key_export(void *key, int selection) { return refuse(key == NULL || selection == 0 ? 2 : 1); }
static const OSSL_PARAM *key_types(int selection) { static const OSSL_PARAM types[] = { OSSL_PARAM_BN("n", NULL, 0), OSSL_PARAM_END }; return selection == 0 ? NULL : types; }
static int key_import(void *key, int selection, const OSSL_PARAM params[])
{
    for (; selection != 0 && params->key != NULL; params++)
        ((Key *)key)->size = strcmp(params->key, "n") == 0 ? params->data_size : ((Key *)key)->size;
    if (hsm == NULL)
        find_key();
    return handle != 0;
}
static void *sign_new(void *provider) { return provider == NULL ? NULL : calloc(1, sizeof(Context)); }
static void sign_free(void *ctx) { host_EVP_MD_CTX_free(((Context *)ctx)->hash); host_EVP_MD_free(((Context *)ctx)->md); free(ctx); }
static void *sign_dup(void *ctx) { Context *c = ctx, *d = calloc(1, sizeof(*d)); d->key = c->key; d->hash = host_EVP_MD_CTX_new(); host_EVP_MD_CTX_copy_ex(d->hash, c->hash); return d; }
static int sign_init(void *ctx, const char *name, void *key)
{
    Context *c = ctx; c->key = key == NULL ? c->key : key;
    host_EVP_MD_CTX_free(c->hash);
    host_EVP_MD_free(c->md);
    c->md = host_EVP_MD_fetch(child, name, NULL);
    c->hash = host_EVP_MD_CTX_new();
    return host_EVP_DigestInit_ex(c->hash, c->md, NULL);
}
static int sign_update(void *ctx, const unsigned char *data, size_t size) { return host_EVP_DigestUpdate(((Context *)ctx)->hash, data, size); }
static int sign_final(void *ctx, unsigned char *signature, size_t *length, size_t room)
{
    CK_MECHANISM mechanism = { CKM_RSA_PKCS, NULL, 0 };
    unsigned char info[sizeof(prefix) + EVP_MAX_MD_SIZE];
    CK_ULONG made = room;
    *length = ((Context *)ctx)->key->size;
    int ok = host_EVP_DigestFinal_ex(((Context *)ctx)->hash, (unsigned char *)memcpy(info, prefix, sizeof(prefix)) + sizeof(prefix), NULL);
    set_mark(core);
    ok = ok && hsm->C_SignInit(open_session(), &mechanism, handle) == CKR_OK && hsm->C_Sign(session, info, sizeof(prefix) + 32, signature, &made) == CKR_OK;
    pop_to_mark(core);
    return ok;
}
static int sign_at_once(void *ctx, unsigned char *signature, size_t *length, size_t room, const unsigned char *data, size_t size) { return sign_update(ctx, data, size) && sign_final(ctx, signature, length, room); }

#define F(id, function) { OSSL_FUNC_##id, (void (*)(void))function }
static const OSSL_DISPATCH keymgmt[] = { F(KEYMGMT_NEW, key_new), F(KEYMGMT_FREE, free), F(KEYMGMT_HAS, key_has), F(KEYMGMT_IMPORT, key_import), F(KEYMGMT_IMPORT_TYPES, key_types), F(KEYMGMT_EXPORT, key_export), F(KEYMGMT_EXPORT_TYPES, key_types), { 0, NULL } };
static const OSSL_DISPATCH sign[] = { F(SIGNATURE_NEWCTX, sign_new), F(SIGNATURE_FREECTX, sign_free), F(SIGNATURE_DUPCTX, sign_dup), F(SIGNATURE_DIGEST_SIGN_INIT, sign_init), F(SIGNATURE_DIGEST_SIGN_UPDATE, sign_update), F(SIGNATURE_DIGEST_SIGN_FINAL, sign_final), F(SIGNATURE_DIGEST_SIGN, sign_at_once), { 0, NULL } };
static const OSSL_ALGORITHM keymgmts[] = { { "RSA:rsaEncryption", "provider=yardstick", keymgmt, NULL }, { NULL, NULL, NULL, NULL } };
static const OSSL_ALGORITHM signs[] = { { "RSA:rsaEncryption", "provider=yardstick", sign, NULL }, { NULL, NULL, NULL, NULL } };
static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache) { *no_cache = provider == NULL; return operation == OSSL_OP_KEYMGMT ? keymgmts : operation == OSSL_OP_SIGNATURE ? signs : NULL; }
static const OSSL_DISPATCH provider[] = { F(PROVIDER_QUERY_OPERATION, query), { 0, NULL } };

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
    Dl_info info; void *host = dladdr((void *)in[0].function, &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : NULL;
    FUNCTIONS(BIND)
    core = handle; *out = provider;
    *context = child = host_OSSL_LIB_CTX_new_child(core, in);
    for (; in->function_id != 0; in++) {
        new_error = in->function_id == OSSL_FUNC_CORE_NEW_ERROR ? OSSL_FUNC_core_new_error(in) : new_error;
        vset_error = in->function_id == OSSL_FUNC_CORE_VSET_ERROR ? OSSL_FUNC_core_vset_error(in) : vset_error;
        set_mark = in->function_id == OSSL_FUNC_CORE_SET_ERROR_MARK ? OSSL_FUNC_core_set_error_mark(in) : set_mark;
        pop_to_mark = in->function_id == OSSL_FUNC_CORE_POP_ERROR_TO_MARK ? OSSL_FUNC_core_pop_error_to_mark(in) : pop_to_mark;
    }
    return child != NULL;
}
