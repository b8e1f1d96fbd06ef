/*
 * A process with two libcryptos, each of which loads the engine and signs with it in turn.
 *
 *     two_libcryptos ID LIBCRYPTO LIBCRYPTO
 *
 * Exit status 1 for a failure.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* OPENSSL_INIT_LOAD_CONFIG */
#define LOAD_CONFIG 0x40L

struct library {
    void *handle;
    void *engine;
    void *private_key;
    void *public_key;
};

static void failed(const char *what)
{
    fprintf(stderr, "two_libcryptos: %s\n", what);
    exit(1);
}

static void *function(struct library *in, const char *name)
{
    void *found = dlsym(in->handle, name);

    if (found == NULL)
        failed(name);
    return found;
}

/* The type of a function's result and of its arguments, and its name. */
#define CALL(in, result, types, name) ((result(*) types)function(in, #name))

static void load(struct library *in, const char *path, const char *id)
{
    in->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (in->handle == NULL)
        failed(dlerror());
    CALL(in, int, (long, void *), OPENSSL_init_crypto)(LOAD_CONFIG, NULL);
    in->engine = CALL(in, void *, (const char *), ENGINE_by_id)("hsmkey");
    if (in->engine == NULL || CALL(in, int, (void *), ENGINE_init)(in->engine) != 1)
        failed("ENGINE_init");
    in->private_key = CALL(in, void *, (void *, const char *, void *, void *), ENGINE_load_private_key)(in->engine, id, NULL, NULL);
    in->public_key = CALL(in, void *, (void *, const char *, void *, void *), ENGINE_load_public_key)(in->engine, id, NULL, NULL);
    if (in->private_key == NULL || in->public_key == NULL)
        failed("loading");
}

static void sign(struct library *in)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    void *digest = CALL(in, void *, (void), EVP_sha256)();
    void *context = CALL(in, void *, (void), EVP_MD_CTX_new)();

    if (CALL(in, int, (void *, void *, void *, void *, void *), EVP_DigestSignInit)(context, NULL, digest, NULL, in->private_key) <= 0
        || CALL(in, int, (void *, unsigned char *, size_t *, const char *, size_t), EVP_DigestSign)(context, signature, &length, "text", 4) <= 0)
        failed("signing");
    CALL(in, void, (void *), EVP_MD_CTX_free)(context);
    context = CALL(in, void *, (void), EVP_MD_CTX_new)();
    if (CALL(in, int, (void *, void *, void *, void *, void *), EVP_DigestVerifyInit)(context, NULL, digest, NULL, in->public_key) <= 0
        || CALL(in, int, (void *, const unsigned char *, size_t, const char *, size_t), EVP_DigestVerify)(context, signature, length, "text", 4) != 1)
        failed("verifying");
    CALL(in, void, (void *), EVP_MD_CTX_free)(context);
}

static void let_go(struct library *in)
{
    CALL(in, int, (void *), ENGINE_finish)(in->engine);
    CALL(in, int, (void *), ENGINE_free)(in->engine);
    CALL(in, void, (void *), EVP_PKEY_free)(in->private_key);
    CALL(in, void, (void *), EVP_PKEY_free)(in->public_key);
}

int main(int argc, char **argv)
{
    struct library one, other;
    int i;

    if (argc != 4)
        return 2;
    load(&one, argv[2], argv[1]);
    load(&other, argv[3], argv[1]);
    for (i = 0; i < 3; i++) {
        sign(&one);
        sign(&other);
    }
    let_go(&one);
    sign(&other);
    let_go(&other);
    return 0;
}
