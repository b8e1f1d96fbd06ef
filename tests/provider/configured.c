/*
 * An application that reads a configuration file of its own choice and signs once.
 *
 *     configured OPENSSL_CNF KEYFILE
 */
#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>

static void failed(const char *what)
{
    fprintf(stderr, "configured: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

int main(int argc, char **argv)
{
    static const unsigned char message[] = "message";
    unsigned char signature[1024];
    size_t length = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY *key;
    FILE *file;

    if (argc != 3 || context == NULL || !OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
        return 2;
    if (CONF_modules_load_file(argv[1], NULL, 0) <= 0)
        failed("CONF_modules_load_file");
    file = fopen(argv[2], "r");
    if (file == NULL)
        failed("fopen");
    key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    fclose(file);
    if (key == NULL)
        failed("PEM_read_PrivateKey");
    if (EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, key, NULL) <= 0
        || EVP_DigestSign(context, signature, &length, message, sizeof(message)) <= 0)
        failed("EVP_DigestSign");
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return 0;
}
