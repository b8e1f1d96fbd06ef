/*
 * An application that decrypts through libcrypto's interface, in the ways that the openssl command does not.
 *
 *     decrypter KEYFILE MODE COUNT CIPHERTEXT...
 *
 * Decrypts each CIPHERTEXT (a file) COUNT times. MODE is pkcs1, explicit or implicit (PKCS#1 v1.5 with implicit rejection as this OpenSSL
 * has it, off, on), oaep, or tls:CLIENT or tls:CLIENT:NEGOTIATED (a TLS premaster secret; versions in hexadecimal). A line for each
 * decryption goes to stdout: the message in hexadecimal after "=", or "!" and the reasons of all errors. Exit status 3: an error queue
 * that is not empty after a success.
 */
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(const char *what)
{
    fprintf(stderr, "decrypter: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static EVP_PKEY_CTX *started(EVP_PKEY *key, const char *mode)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    OSSL_PARAM params[4], *next = params;
    int padding = RSA_PKCS1_PADDING;
    unsigned int rejection = strcmp(mode, "implicit") == 0, client = 0, negotiated = 0;

    if (strcmp(mode, "oaep") == 0)
        padding = RSA_PKCS1_OAEP_PADDING;
    if (strncmp(mode, "tls", 3) == 0) {
        padding = RSA_PKCS1_WITH_TLS_PADDING;
        if (sscanf(mode, "tls:%x:%x", &client, &negotiated) > 0)
            *next++ = OSSL_PARAM_construct_uint(OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION, &client);
        if (negotiated != 0)
            *next++ = OSSL_PARAM_construct_uint(OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION, &negotiated);
    }
    if (rejection || strcmp(mode, "explicit") == 0)
        *next++ = OSSL_PARAM_construct_uint("implicit-rejection", &rejection);
    *next++ = OSSL_PARAM_construct_int(OSSL_ASYM_CIPHER_PARAM_PAD_MODE, &padding);
    *next = OSSL_PARAM_construct_end();
    if (context == NULL || EVP_PKEY_decrypt_init_ex(context, params) <= 0)
        failed("EVP_PKEY_decrypt_init_ex");
    return context;
}

static void decrypt(EVP_PKEY *key, const char *mode, int use_copy, const unsigned char *input, size_t length)
{
    EVP_PKEY_CTX *context = started(key, mode), *copy;
    unsigned char output[1024];
    unsigned long error;
    size_t i, size = 0;

    if (use_copy) {
        copy = EVP_PKEY_CTX_dup(context);
        if (copy == NULL)
            failed("EVP_PKEY_CTX_dup");
        EVP_PKEY_CTX_free(context);
        context = copy;
    }
    if (EVP_PKEY_decrypt(context, NULL, &size, input, length) <= 0 || size > sizeof(output))
        failed("EVP_PKEY_decrypt for the size");
    if (EVP_PKEY_decrypt(context, output, &size, input, length) <= 0) {
        printf("!");
        while ((error = ERR_get_error()) != 0)
            printf(" %d", ERR_GET_REASON(error));
    } else {
        if (ERR_peek_error() != 0) {
            fprintf(stderr, "decrypter: errors are queued after a decryption that succeeded\n");
            ERR_print_errors_fp(stderr);
            exit(3);
        }
        printf("=");
        for (i = 0; i < size; i++)
            printf("%02x", output[i]);
    }
    printf("\n");
    EVP_PKEY_CTX_free(context);
}

int main(int argc, char **argv)
{
    unsigned char input[4096];
    EVP_PKEY *key;
    BIO *file;
    FILE *ciphertext;
    size_t length;
    int i, j;

    if (argc < 5)
        return 2;
    file = BIO_new_file(argv[1], "r");
    key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    if (key == NULL)
        failed("PEM_read_bio_PrivateKey");
    BIO_free(file);
    for (i = 4; i < argc; i++) {
        ciphertext = fopen(argv[i], "rb");
        if (ciphertext == NULL)
            failed(argv[i]);
        length = fread(input, 1, sizeof(input), ciphertext);
        fclose(ciphertext);
        for (j = 0; j < atoi(argv[3]); j++)
            decrypt(key, argv[2], j % 2, input, length);
    }
    EVP_PKEY_free(key);
    return 0;
}
