/*
 * An application with several library contexts, or several libcryptos, that load and let go of hsmkey while others sign.
 *
 *     contexts ROUNDS COUNT [LIBRARY CONFIGURATION KEY PUBLIC]...
 *
 * A thread for each four arguments: ROUNDS times it makes a context of the libcrypto in the file LIBRARY (- is the system's),
 * loads the configuration, reads the key, signs COUNT messages and lets all go. KEY is a file, or PROVIDER=URI: then the key is
 * taken from the store of that provider.
 *
 * On stdout "signed N failed N wrong N"; exit status 1 where any failed.
 */
#define _GNU_SOURCE
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/store.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is called in a libcrypto, by name: each party may have another one. */
#define FUNCTIONS(F)                                                                                                      \
    F(BIO_new_file) F(BIO_free) F(PEM_read_bio_PrivateKey_ex) F(PEM_read_bio_PUBKEY_ex) F(EVP_PKEY_free) F(EVP_PKEY_eq)         \
    F(EVP_MD_CTX_new) F(EVP_MD_CTX_free) F(EVP_DigestSignInit_ex) F(EVP_DigestSign) F(EVP_DigestVerifyInit_ex)                  \
    F(EVP_DigestVerify) F(OSSL_LIB_CTX_new) F(OSSL_LIB_CTX_load_config) F(OSSL_LIB_CTX_free) F(OSSL_STORE_open_ex)              \
    F(OSSL_STORE_load) F(OSSL_STORE_eof) F(OSSL_STORE_close) F(OSSL_STORE_INFO_get1_PKEY) F(OSSL_STORE_INFO_get_type)           \
    F(OSSL_STORE_INFO_free) F(ERR_print_errors_fp)

struct library {
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
};

struct party {
    pthread_t thread;
    struct library library;
    const char *configuration, *key, *public;
    int number;
};

static atomic_int signed_count, failed_count, wrong_count;
static int rounds, count;

static int bind_library(struct library *library, const char *path)
{
    /* RTLD_DEEPBIND: its own functions, and not those of the same names that are there already. */
    void *handle = strcmp(path, "-") == 0 ? dlopen("libcrypto.so.3", RTLD_NOW)
                                          : dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);

    if (handle == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 0;
    }
#define BIND(name)                                                                                                        \
    if ((library->name = (__typeof__(name) *)dlsym(handle, #name)) == NULL)                                                 \
        return 0;
    FUNCTIONS(BIND)
    return 1;
}

/* The first private key in the store of the provider that stands before the URI. */
static EVP_PKEY *from_store(const struct library *l, OSSL_LIB_CTX *context, const char *key)
{
    const char *uri = strchr(key, '=') + 1;
    char properties[64];
    OSSL_STORE_CTX *store;
    EVP_PKEY *found = NULL;

    snprintf(properties, sizeof(properties), "provider=%.*s", (int)(uri - key - 1), key);
    store = l->OSSL_STORE_open_ex(uri, context, properties, NULL, NULL, NULL, NULL, NULL);
    while (store != NULL && found == NULL && !l->OSSL_STORE_eof(store)) {
        OSSL_STORE_INFO *info = l->OSSL_STORE_load(store);

        if (info != NULL && l->OSSL_STORE_INFO_get_type(info) == OSSL_STORE_INFO_PKEY)
            found = l->OSSL_STORE_INFO_get1_PKEY(info);
        l->OSSL_STORE_INFO_free(info);
    }
    if (store != NULL)
        l->OSSL_STORE_close(store);
    return found;
}

static EVP_PKEY *from_file(const struct library *l, OSSL_LIB_CTX *context, const char *path, int public)
{
    BIO *file = l->BIO_new_file(path, "r");
    EVP_PKEY *key = NULL;

    if (file != NULL)
        key = public ? l->PEM_read_bio_PUBKEY_ex(file, NULL, NULL, NULL, context, NULL)
                     : l->PEM_read_bio_PrivateKey_ex(file, NULL, NULL, NULL, context, NULL);
    l->BIO_free(file);
    return key;
}

static void sign(const struct library *l, OSSL_LIB_CTX *context, EVP_PKEY *key, EVP_PKEY *public, const char *message)
{
    EVP_MD_CTX *digest = l->EVP_MD_CTX_new();
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    const unsigned char *octets = (const unsigned char *)message;
    int ok = l->EVP_DigestSignInit_ex(digest, NULL, "SHA256", context, NULL, key, NULL) > 0
             && l->EVP_DigestSign(digest, signature, &length, octets, strlen(message)) > 0;

    l->EVP_MD_CTX_free(digest);
    if (!ok) {
        atomic_fetch_add(&failed_count, 1);
        l->ERR_print_errors_fp(stderr);
        return;
    }
    atomic_fetch_add(&signed_count, 1);
    digest = l->EVP_MD_CTX_new();
    if (l->EVP_DigestVerifyInit_ex(digest, NULL, "SHA256", context, NULL, public, NULL) <= 0
        || l->EVP_DigestVerify(digest, signature, length, octets, strlen(message)) != 1)
        atomic_fetch_add(&wrong_count, 1);
    l->EVP_MD_CTX_free(digest);
}

static void *run(void *argument)
{
    struct party *party = argument;
    const struct library *l = &party->library;
    int round, i;

    for (round = 0; round < rounds; round++) {
        OSSL_LIB_CTX *context = l->OSSL_LIB_CTX_new();
        EVP_PKEY *key = NULL, *public = NULL;
        int stored = strchr(party->key, '=') != NULL;

        if (l->OSSL_LIB_CTX_load_config(context, party->configuration)) {
            key = stored ? from_store(l, context, party->key) : from_file(l, context, party->key, 0);
            public = from_file(l, context, party->public, 1);
        }
        if (key == NULL || public == NULL || l->EVP_PKEY_eq(key, public) != 1) {
            atomic_fetch_add(&failed_count, 1);
            fprintf(stderr, "party %d, round %d: no key\n", party->number, round);
            l->ERR_print_errors_fp(stderr);
        } else {
            char message[64];

            for (i = 0; i < count; i++) {
                snprintf(message, sizeof(message), "%d/%d/%d", party->number, round, i);
                sign(l, context, key, public, message);
            }
        }
        l->EVP_PKEY_free(key);
        l->EVP_PKEY_free(public);
        l->OSSL_LIB_CTX_free(context);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct party parties[16] = { 0 };
    int number = 0, i;

    if (argc < 7 || argc > 3 + 4 * 16 || (argc - 3) % 4 != 0)
        return 2;
    rounds = atoi(argv[1]);
    count = atoi(argv[2]);
    for (i = 3; i < argc; i += 4, number++) {
        struct party *party = &parties[number];

        party->number = number;
        party->configuration = argv[i + 1];
        party->key = argv[i + 2];
        party->public = argv[i + 3];
        if (!bind_library(&party->library, argv[i]))
            return 2;
    }
    for (i = 0; i < number; i++)
        if (pthread_create(&parties[i].thread, NULL, run, &parties[i]) != 0)
            return 2;
    for (i = 0; i < number; i++)
        pthread_join(parties[i].thread, NULL);
    printf("signed %d failed %d wrong %d\n", atomic_load(&signed_count), atomic_load(&failed_count),
           atomic_load(&wrong_count));
    return atomic_load(&failed_count) != 0 || atomic_load(&wrong_count) != 0;
}
