/*
 * An application that signs through libcrypto's interface, in the ways that the openssl command does not.
 *
 *     signer fresh|reused|duplicated|oneshot KEYFILE COUNT    signs the COUNT messages "1", "2", ... with SHA-256
 *     signer check KEYFILE CERTIFICATE                        compares the key with a certificate
 *     signer query KEYFILE QUERY                              signs the message "1" under a property query
 *
 * Signatures go to stdout as lines of hexadecimal. Exit status 3: an error queue that is not empty after a success.
 */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(const char *what)
{
    fprintf(stderr, "signer: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void nothing_queued(const char *after)
{
    if (ERR_peek_error() == 0)
        return;
    fprintf(stderr, "signer: errors are queued after %s, which succeeded\n", after);
    ERR_print_errors_fp(stderr);
    exit(3);
}

static EVP_MD_CTX *started(EVP_PKEY *key, const char *query)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (context == NULL || EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, query, key, NULL) <= 0)
        failed("EVP_DigestSignInit_ex");
    nothing_queued("EVP_DigestSignInit_ex");
    return context;
}

static void sign(EVP_MD_CTX *context, const char *message, int oneshot)
{
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    size_t i;

    if (oneshot) {
        size_t wanted = 0;

        /* libssl asks for the size first. */
        if (EVP_DigestSign(context, NULL, &wanted, (const unsigned char *)message, strlen(message)) <= 0
            || wanted > length)
            failed("EVP_DigestSign for the size");
        if (EVP_DigestSign(context, signature, &length, (const unsigned char *)message, strlen(message)) <= 0)
            failed("EVP_DigestSign");
    } else {
        if (EVP_DigestSignUpdate(context, message, strlen(message)) <= 0)
            failed("EVP_DigestSignUpdate");
        if (EVP_DigestSignFinal(context, signature, &length) <= 0)
            failed("EVP_DigestSignFinal");
    }
    nothing_queued("a signature");
    for (i = 0; i < length; i++)
        printf("%02x", signature[i]);
    printf("\n");
}

static EVP_PKEY *read_key(const char *path)
{
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);

    if (key == NULL)
        failed("PEM_read_bio_PrivateKey");
    nothing_queued("PEM_read_bio_PrivateKey");
    BIO_free(file);
    return key;
}

static void check(EVP_PKEY *key, const char *path)
{
    BIO *file = BIO_new_file(path, "r");
    X509 *certificate = file == NULL ? NULL : PEM_read_bio_X509(file, NULL, NULL, NULL);

    if (certificate == NULL)
        failed("PEM_read_bio_X509");
    if (X509_check_private_key(certificate, key) != 1)
        failed("X509_check_private_key");
    nothing_queued("X509_check_private_key");
    X509_free(certificate);
    BIO_free(file);
}

int main(int argc, char **argv)
{
    EVP_PKEY *key;
    EVP_MD_CTX *context = NULL, *other;
    char message[16];
    int i, count;

    if (argc != 4)
        return 2;
    key = read_key(argv[2]);
    if (strcmp(argv[1], "check") == 0) {
        check(key, argv[3]);
        EVP_PKEY_free(key);
        return 0;
    }
    if (strcmp(argv[1], "query") == 0) {
        context = started(key, argv[3]);
        sign(context, "1", 0);
        EVP_MD_CTX_free(context);
        EVP_PKEY_free(key);
        return 0;
    }
    count = atoi(argv[3]);
    for (i = 1; i <= count; i++) {
        snprintf(message, sizeof(message), "%d", i);
        if (strcmp(argv[1], "fresh") == 0 || strcmp(argv[1], "oneshot") == 0 || context == NULL) {
            EVP_MD_CTX_free(context);
            context = started(key, NULL);
        } else if (strcmp(argv[1], "reused") == 0
                   && EVP_DigestSignInit_ex(context, NULL, NULL, NULL, NULL, NULL, NULL) <= 0) {
            failed("EVP_DigestSignInit_ex on a used context");
        }
        if (strcmp(argv[1], "duplicated") == 0) {
            other = EVP_MD_CTX_new();
            if (other == NULL || EVP_MD_CTX_copy_ex(other, context) <= 0)
                failed("EVP_MD_CTX_copy_ex");
            sign(other, message, 0);
            EVP_MD_CTX_free(other);
        } else {
            sign(context, message, strcmp(argv[1], "oneshot") == 0);
        }
    }
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return 0;
}
