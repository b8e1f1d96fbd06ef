/* Asks the installed OpenSSL for the AlgorithmIdentifiers of its own signatures: lines "digest", or "digest mgf1 salt" for PSS,
 * on standard input; a line of hexadecimal or "none" for each on standard output. The argument is the size of an RSA key in bits, or
 * a curve. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>

static void answer(EVP_PKEY *key, const char *digest, char *mgf1, char *salt)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *signature;
    unsigned char der[256];
    size_t i, length = 0;
    OSSL_PARAM pss[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, "pss", 0),
        OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, mgf1, 0),
        OSSL_PARAM_construct_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, salt, 0),
        OSSL_PARAM_END
    };
    OSSL_PARAM identifier[] = {
        OSSL_PARAM_construct_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, der, sizeof(der)), OSSL_PARAM_END
    };

    if (EVP_DigestSignInit_ex(context, &signature, digest, NULL, NULL, key, *mgf1 == '\0' ? NULL : pss) > 0
        && EVP_PKEY_CTX_get_params(signature, identifier) > 0 && OSSL_PARAM_modified(identifier))
        length = identifier[0].return_size;
    if (length == 0)
        printf("none");
    for (i = 0; i < length; i++)
        printf("%02x", der[i]);
    printf("\n");
    EVP_MD_CTX_free(context);
}

int main(int argc, char **argv)
{
    char line[200];
    EVP_PKEY *key;

    if (argc != 2 || OSSL_PROVIDER_load(NULL, "default") == NULL || OSSL_PROVIDER_load(NULL, "legacy") == NULL)
        return 2;
    key = atoi(argv[1]) > 0 ? EVP_RSA_gen((unsigned)atoi(argv[1])) : EVP_EC_gen(argv[1]);
    if (key == NULL)
        return 2;
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char digest[60] = "", mgf1[60] = "", salt[60] = "";

        if (sscanf(line, "%59s %59s %59s", digest, mgf1, salt) < 1)
            return 2;
        answer(key, digest, mgf1, salt);
    }
    EVP_PKEY_free(key);
    return 0;
}
