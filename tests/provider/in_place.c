/*
 * An application that has one buffer for what goes in and what comes out.
 *
 *     in_place KEYFILE
 *
 * An RSA key. A signature over a digest's value, a message encrypted and decrypted again, and a signature's content recovered, each with
 * the input at the beginning of the result's buffer and somewhere in it. A line for each goes to stdout.
 */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(const char *what)
{
    fprintf(stderr, "in_place: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void say(const char *what, const unsigned char *octets, size_t length)
{
    size_t i;

    printf("%s ", what);
    for (i = 0; i < length; i++)
        printf("%02x", octets[i]);
    printf("\n");
}

typedef int step(EVP_PKEY_CTX *, unsigned char *, size_t *, const unsigned char *, size_t);

/* A step in a buffer, whose input begins at an offset: the length of the result, which stands at the beginning. */
static size_t within(EVP_PKEY *key, int (*init)(EVP_PKEY_CTX *), step *work, unsigned char *buffer, size_t offset,
                     size_t input, int with_digest)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    size_t length = 256;

    if (context == NULL || init(context) <= 0)
        failed("beginning");
    if (with_digest && EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()) <= 0)
        failed("EVP_PKEY_CTX_set_signature_md");
    memmove(buffer + offset, buffer, input);
    if (work(context, buffer, &length, buffer + offset, input) <= 0)
        failed("working");
    EVP_PKEY_CTX_free(context);
    return length;
}

int main(int argc, char **argv)
{
    static const size_t offsets[] = { 0, 1, 100 };
    unsigned char buffer[512];
    BIO *file = argc == 2 ? BIO_new_file(argv[1], "r") : NULL;
    EVP_PKEY *key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    size_t i, length;

    if (key == NULL)
        failed("PEM_read_bio_PrivateKey");
    for (i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        memset(buffer, 7, sizeof(buffer));
        length = within(key, EVP_PKEY_sign_init, EVP_PKEY_sign, buffer, offsets[i], 32, 1);
        say("signed", buffer, length);
        length = within(key, EVP_PKEY_verify_recover_init, EVP_PKEY_verify_recover, buffer, offsets[i], length, 1);
        say("recovered", buffer, length);
        memset(buffer, 9, sizeof(buffer));
        length = within(key, EVP_PKEY_encrypt_init, EVP_PKEY_encrypt, buffer, offsets[i], 40, 0);
        length = within(key, EVP_PKEY_decrypt_init, EVP_PKEY_decrypt, buffer, offsets[i], length, 0);
        say("decrypted", buffer, length);
    }
    EVP_PKEY_free(key);
    BIO_free(file);
    return 0;
}
