/*
 * An application of OpenSSL 3.4 or later that signs with an algorithm that has its digest in its name.
 *
 *     composite KEYFILE ALGORITHM PROPERTIES MESSAGE [DIGEST]
 *
 * Signs MESSAGE in one call, in two, and through a duplicate of the context; then DIGEST (hexadecimal), where it is given. RSA signatures go
 * to stdout as lines of hexadecimal. Each is verified with the key that has made it: a line says whether it is good in one call and in two,
 * and for another message. Exit status 3: an error queue that is not empty after a success.
 */
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(const char *what)
{
    fprintf(stderr, "composite: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int is_rsa;

static void show(const unsigned char *signature, size_t length, const char *after)
{
    size_t i;

    if (ERR_peek_error() != 0) {
        fprintf(stderr, "composite: errors are queued after %s, which succeeded\n", after);
        ERR_print_errors_fp(stderr);
        exit(3);
    }
    for (i = 0; is_rsa && i < length; i++)
        printf("%02x", signature[i]);
    printf("\n");
}

/* Whether a signature is good for a message, in one call and in two, and for another message. */
static void verify(EVP_PKEY_CTX *context, EVP_SIGNATURE *algorithm, unsigned char *signature, size_t length,
                   const unsigned char *message, size_t size)
{
    int whole, parts, other;

    if (EVP_PKEY_verify_message_init(context, algorithm, NULL) <= 0)
        failed("EVP_PKEY_verify_message_init");
    whole = EVP_PKEY_verify(context, signature, length, message, size);
    if (EVP_PKEY_verify_message_init(context, algorithm, NULL) <= 0
        || EVP_PKEY_CTX_set_signature(context, signature, length) <= 0
        || EVP_PKEY_verify_message_update(context, message, size / 2) <= 0
        || EVP_PKEY_verify_message_update(context, message + size / 2, size - size / 2) <= 0)
        failed("EVP_PKEY_verify_message_update");
    parts = EVP_PKEY_verify_message_final(context);
    if (EVP_PKEY_verify_message_init(context, algorithm, NULL) <= 0
        || EVP_PKEY_CTX_set_signature(context, signature, length) <= 0
        || EVP_PKEY_verify_message_update(context, message, size / 2) <= 0)
        failed("EVP_PKEY_verify_message_update");
    other = EVP_PKEY_verify_message_final(context);
    ERR_clear_error();
    printf("good %d %d %d\n", whole == 1, parts == 1, other == 1);
}

int main(int argc, char **argv)
{
    unsigned char signature[1024];
    const unsigned char *message;
    size_t size, length;
    long digest_length = 0;
    unsigned char *digest;
    BIO *file;
    EVP_PKEY *key;
    EVP_PKEY_CTX *context, *copy;
    EVP_SIGNATURE *algorithm;

    if (argc < 5)
        return 2;
    message = (const unsigned char *)argv[4];
    size = strlen(argv[4]);
    file = BIO_new_file(argv[1], "r");
    key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    if (key == NULL)
        failed("PEM_read_bio_PrivateKey");
    is_rsa = EVP_PKEY_is_a(key, "RSA");
    algorithm = EVP_SIGNATURE_fetch(NULL, argv[2], argv[3]);
    if (algorithm == NULL)
        failed("EVP_SIGNATURE_fetch");
    context = EVP_PKEY_CTX_new_from_pkey(NULL, key, argv[3]);
    if (context == NULL)
        failed("EVP_PKEY_CTX_new_from_pkey");

    if (EVP_PKEY_sign_message_init(context, algorithm, NULL) <= 0)
        failed("EVP_PKEY_sign_message_init");
    length = 0;
    if (EVP_PKEY_sign(context, NULL, &length, message, size) <= 0 || length > sizeof(signature))
        failed("EVP_PKEY_sign for the size");
    if (EVP_PKEY_sign(context, signature, &length, message, size) <= 0)
        failed("EVP_PKEY_sign");
    show(signature, length, "EVP_PKEY_sign");
    verify(context, algorithm, signature, length, message, size);

    if (EVP_PKEY_sign_message_init(context, algorithm, NULL) <= 0
        || EVP_PKEY_sign_message_update(context, message, size / 2) <= 0)
        failed("EVP_PKEY_sign_message_update");
    copy = EVP_PKEY_CTX_dup(context);
    if (copy == NULL)
        failed("EVP_PKEY_CTX_dup");
    if (EVP_PKEY_sign_message_update(context, message + size / 2, size - size / 2) <= 0)
        failed("EVP_PKEY_sign_message_update");
    length = sizeof(signature);
    if (EVP_PKEY_sign_message_final(context, signature, &length) <= 0)
        failed("EVP_PKEY_sign_message_final");
    show(signature, length, "EVP_PKEY_sign_message_final");

    length = sizeof(signature);
    if (EVP_PKEY_sign_message_update(copy, message + size / 2, size - size / 2) <= 0
        || EVP_PKEY_sign_message_final(copy, signature, &length) <= 0)
        failed("the duplicate");
    show(signature, length, "the duplicate");
    verify(context, algorithm, signature, length, message, size);
    EVP_PKEY_CTX_free(copy);

    if (argc > 5) {
        digest = OPENSSL_hexstr2buf(argv[5], &digest_length);
        if (digest == NULL || EVP_PKEY_sign_init_ex2(context, algorithm, NULL) <= 0)
            failed("EVP_PKEY_sign_init_ex2");
        length = sizeof(signature);
        if (EVP_PKEY_sign(context, signature, &length, digest, (size_t)digest_length) <= 0)
            failed("EVP_PKEY_sign of a digest");
        show(signature, length, "EVP_PKEY_sign of a digest");
        if (EVP_PKEY_verify_init_ex2(context, algorithm, NULL) <= 0)
            failed("EVP_PKEY_verify_init_ex2");
        printf("good %d", EVP_PKEY_verify(context, signature, length, digest, (size_t)digest_length) == 1);
        digest[0] ^= 1;
        printf(" %d\n", EVP_PKEY_verify(context, signature, length, digest, (size_t)digest_length) == 1);
        ERR_clear_error();
        if (is_rsa) {
            unsigned char recovered[1024];
            size_t recovered_length = sizeof(recovered);

            if (EVP_PKEY_verify_recover_init_ex2(context, algorithm, NULL) <= 0)
                failed("EVP_PKEY_verify_recover_init_ex2");
            /* OpenSSL does not recover every digest that it signs. */
            if (EVP_PKEY_verify_recover(context, recovered, &recovered_length, signature, length) > 0) {
                show(recovered, recovered_length, "EVP_PKEY_verify_recover");
            } else {
                ERR_clear_error();
                printf("nothing is recovered\n");
            }
        }
        OPENSSL_free(digest);
    }
    EVP_PKEY_CTX_free(context);
    EVP_SIGNATURE_free(algorithm);
    EVP_PKEY_free(key);
    BIO_free(file);
    return 0;
}
