/*
 * An application that says in many ways how it wants to sign, and prints what it gets.
 *
 *     choices rsa|ec KEYFILE PUBLICFILE
 *
 * A line for each way. With the software key it says what OpenSSL's own provider does. Signatures are verified with the public key.
 */
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static EVP_PKEY *private_key, *public_key;
static int is_rsa;

static const unsigned char message[] = "some octets";

/* What is said of a signature; NULL is not said. */
struct choice {
    const char *name, *digest, *properties, *padding, *salt, *mask;
};

static const OSSL_PARAM *as_params(const struct choice *choice, OSSL_PARAM *params)
{
    size_t count = 0;
    const struct {
        const char *key, *value;
    } all[] = {
        { OSSL_SIGNATURE_PARAM_DIGEST, choice->digest },
        { OSSL_SIGNATURE_PARAM_PROPERTIES, choice->properties },
        { OSSL_SIGNATURE_PARAM_PAD_MODE, choice->padding },
        { OSSL_SIGNATURE_PARAM_PSS_SALTLEN, choice->salt },
        { OSSL_SIGNATURE_PARAM_MGF1_DIGEST, choice->mask },
    };
    size_t i;

    for (i = 0; i < sizeof(all) / sizeof(*all); i++)
        if (all[i].value != NULL)
            params[count++] = OSSL_PARAM_construct_utf8_string(all[i].key, (char *)all[i].value, 0);
    params[count] = OSSL_PARAM_construct_end();
    return count == 0 ? NULL : params;
}

static const char *or_none(const char *text)
{
    return text == NULL ? "-" : text;
}

static void say(const struct choice *choice)
{
    printf(" [%s %s (%s) %s %s %s]", or_none(choice->name), or_none(choice->digest), or_none(choice->properties),
           or_none(choice->padding), or_none(choice->salt), or_none(choice->mask));
}

/* What the context says of itself; the digest's name is kept. */
static void ask(EVP_PKEY_CTX *context, char *digest)
{
    char padding[40] = "", salt[40] = "", mask[80] = "";
    unsigned char id[400];
    OSSL_PARAM params[6];
    size_t count = 0, i, length;

    *digest = '\0';
    params[count++] = OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, digest, 80);
    if (is_rsa) {
        params[count++] = OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, padding, sizeof(padding));
        params[count++] = OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, salt, sizeof(salt));
        params[count++] = OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, mask, sizeof(mask));
    }
    params[count] = OSSL_PARAM_construct_end();
    EVP_PKEY_CTX_get_params(context, params);
    printf(" digest=%s padding=%s salt=%s mask=%s", digest, padding, salt, mask);
    params[0] = OSSL_PARAM_construct_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, id, sizeof(id));
    params[1] = OSSL_PARAM_construct_end();
    length = EVP_PKEY_CTX_get_params(context, params) > 0 && OSSL_PARAM_modified(params) ? params[0].return_size : 0;
    /* An RSASSA-PSS-params is longer than the digest's name: a version may write the defaults out. */
    printf(" id=");
    for (i = 0; i < length; i++)
        printf("%02x", id[i]);
}

/* Which of the digests a signature over the message, or over octets of the digest's length, is good for. */
static void verify(const unsigned char *signature, size_t length, const char *padding)
{
    static const char *digests[] = { "SHA1", "SHA256", "SHA384", "SHA512" };
    size_t i;

    printf(" good:");
    for (i = 0; i < sizeof(digests) / sizeof(*digests); i++) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        struct choice choice = { digests[i], NULL, NULL, padding, NULL, NULL };
        OSSL_PARAM params[6];

        if (EVP_DigestVerifyInit_ex(context, NULL, digests[i], NULL, "provider=default", public_key,
                                    as_params(&choice, params)) > 0
            && EVP_DigestVerify(context, signature, length, message, sizeof(message)) == 1)
            printf(" %s", digests[i]);
        EVP_MD_CTX_free(context);
    }
}

static void finish(EVP_MD_CTX *context, const char *padding)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    int ok = EVP_DigestSignUpdate(context, message, sizeof(message)) > 0
             && EVP_DigestSignFinal(context, signature, &length) > 0;

    printf(" signed=%d", ok);
    if (ok)
        verify(signature, length, padding);
}

/* EVP_DigestSignInit_ex with parameters, and again. */
static void hashing(const struct choice *first, const char *query, const struct choice *second, int finished)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *inner = NULL;
    OSSL_PARAM params[6];
    char digest[80];
    const char *padding = first->padding;
    int begun;

    printf("hash");
    say(first);
    begun = EVP_DigestSignInit_ex(context, &inner, first->name, NULL, query, private_key, as_params(first, params)) > 0;
    printf(" (%s) begun=%d", or_none(query), begun);
    if (begun && second != NULL) {
        if (finished)
            finish(context, padding);
        printf(" %s", finished ? "then" : "instead");
        say(second);
        padding = second->padding;
        begun = EVP_DigestSignInit_ex(context, &inner, second->name, NULL, query, NULL, as_params(second, params)) > 0;
        printf(" begun=%d", begun);
    }
    if (begun) {
        ask(inner, digest);
        finish(context, padding);
    }
    printf("\n");
    EVP_MD_CTX_free(context);
}

/* EVP_PKEY_sign_init_ex, then parameters one by one. */
static void prehashed(const struct choice *first, const struct choice *second, size_t size)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, private_key, NULL);
    OSSL_PARAM params[6];
    unsigned char value[64], signature[1024];
    size_t length = sizeof(signature);
    char digest[80];
    int begun;

    memset(value, 7, sizeof(value));
    printf("value");
    say(first);
    say(second);
    begun = EVP_PKEY_sign_init_ex(context, as_params(first, params)) > 0;
    printf(" %zu begun=%d", size, begun);
    if (begun) {
        printf(" set=%d", EVP_PKEY_CTX_set_params(context, as_params(second, params)) > 0);
        ask(context, digest);
        printf(" signed=%d", EVP_PKEY_sign(context, signature, &length, value, size) > 0);
    }
    printf("\n");
    EVP_PKEY_CTX_free(context);
}

/* EVP_DigestVerifyInit_ex with the private key. */
static void verifying(const struct choice *choice)
{
    EVP_MD_CTX *signer = EVP_MD_CTX_new(), *context = EVP_MD_CTX_new();
    struct choice plain = { choice->name, NULL, NULL, choice->padding, NULL, NULL };
    EVP_PKEY_CTX *inner = NULL;
    OSSL_PARAM params[6];
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    char digest[80];
    int begun;

    printf("verify");
    say(choice);
    if (EVP_DigestSignInit_ex(signer, NULL, choice->name, NULL, NULL, private_key, as_params(&plain, params)) <= 0
        || EVP_DigestSign(signer, signature, &length, message, sizeof(message)) <= 0) {
        printf(" nothing to verify\n");
        EVP_MD_CTX_free(signer);
        EVP_MD_CTX_free(context);
        return;
    }
    begun = EVP_DigestVerifyInit_ex(context, &inner, choice->name, NULL, NULL, private_key, as_params(choice, params)) > 0;
    printf(" begun=%d", begun);
    if (begun) {
        ask(inner, digest);
        printf(" verified=%d", EVP_DigestVerify(context, signature, length, message, sizeof(message)) == 1);
    }
    printf("\n");
    EVP_MD_CTX_free(signer);
    EVP_MD_CTX_free(context);
}

static EVP_PKEY *read_key(const char *path, int private)
{
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = NULL;

    if (file != NULL)
        key = private ? PEM_read_bio_PrivateKey(file, NULL, NULL, NULL) : PEM_read_bio_PUBKEY(file, NULL, NULL, NULL);
    if (key == NULL) {
        ERR_print_errors_fp(stderr);
        exit(3);
    }
    BIO_free(file);
    return key;
}

int main(int argc, char **argv)
{
    static const char *names[] = { NULL, "SHA256", "sha384", "SHA2-256" };
    static const char *digests[] = { NULL, "SHA256", "SHA384", "sha2-256", "SHA1", "NONE", "" };
    static const char *properties[] = { NULL, "", "provider=default", "provider=absent" };
    static const char *paddings[] = { NULL, "pss" };
    static const size_t sizes[] = { 20, 32, 48 };
    size_t a, b, c, d;

    if (argc != 4)
        return 2;
    is_rsa = strcmp(argv[1], "rsa") == 0;
    private_key = read_key(argv[2], 1);
    public_key = read_key(argv[3], 0);
    for (d = 0; d < (is_rsa ? 2 : 1); d++)
        for (a = 0; a < 4; a++)
            for (b = 0; b < 7; b++)
                for (c = 0; c < (digests[b] == NULL ? 1 : 4); c++) {
                    struct choice choice = { names[a], digests[b], properties[c], paddings[d], NULL, NULL };

                    hashing(&choice, NULL, NULL, 0);
                    hashing(&choice, "?fips=yes", NULL, 0);
                    verifying(&choice);
                }
    for (a = 0; a < 4; a++)
        for (b = 0; b < 5; b++)
            for (c = 0; c < 2; c++)
                for (d = 0; d < (is_rsa ? 2 : 1); d++) {
                    struct choice first = { "SHA256", NULL, NULL, paddings[d], NULL, NULL };
                    struct choice second = { names[a], digests[b], NULL, NULL, NULL, NULL };

                    hashing(&first, NULL, &second, (int)c);
                    second.padding = paddings[1];
                    if (is_rsa)
                        hashing(&first, NULL, &second, (int)c);
                }
    for (a = 0; a < 5; a++)
        for (b = 0; b < 5; b++)
            for (c = 0; c < 3; c++)
                for (d = 0; d < (is_rsa ? 2 : 1); d++) {
                    struct choice first = { NULL, digests[a], NULL, paddings[d], NULL, NULL };
                    struct choice second = { NULL, digests[b], NULL, NULL, NULL, NULL };

                    prehashed(&first, &second, sizes[c]);
                }
    EVP_PKEY_free(private_key);
    EVP_PKEY_free(public_key);
    return 0;
}
