/*
 * An application that uses an EC or Ed25519 key through libcrypto's interface, in the ways that the openssl command does not.
 *
 *     elliptic show KEYFILE                    what OpenSSL asks keys about, as lines NAME=VALUE; octets are hexadecimal
 *     elliptic raw KEYFILE LENGTH              signs LENGTH octets as they are and verifies with the public half alone
 *     elliptic sizes KEYFILE                   promised sizes hold, small buffers are refused, contexts are reused and duplicated
 *     elliptic own KEYFILE                     verifies with the very object that signed, and notices a change
 *     elliptic nonce KEYFILE                   asks for a deterministic nonce; exit status 4 where that is refused
 *     elliptic derive KEYFILE PEER KDF LENGTH  the ECDH secret with a public key; KDF is a digest for X9.63, or "none"
 *     elliptic compare KEYFILE PUBLIC          exit status 0: equal, 5: parameters only, 6: neither
 *     elliptic same KEYFILE KEYFILE            the same for two private keys
 *     elliptic copies KEYFILE PUBLIC           a point that is given to a copy of the parameters is not in a copy of that copy
 *     elliptic typed KEYFILE TYPE              reads a key of this type and no other; exit status 7 where there is none
 *
 * Exit status 3: an error queue that is not empty after a success.
 */
#include <openssl/core_names.h>
#include <openssl/decoder.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(const char *what)
{
    fprintf(stderr, "elliptic: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void nothing_queued(const char *after)
{
    if (ERR_peek_error() == 0)
        return;
    fprintf(stderr, "elliptic: errors are queued after %s, which succeeded\n", after);
    ERR_print_errors_fp(stderr);
    exit(3);
}

static EVP_PKEY *read_key(const char *path, int private)
{
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = NULL;

    if (file != NULL)
        key = private ? PEM_read_bio_PrivateKey(file, NULL, NULL, NULL) : PEM_read_bio_PUBKEY(file, NULL, NULL, NULL);
    if (key == NULL)
        failed(path);
    nothing_queued("reading a key");
    BIO_free(file);
    return key;
}

/* The public half, as whoever gets a certificate has it. */
static EVP_PKEY *public_half(EVP_PKEY *key)
{
    unsigned char *der = NULL;
    int length = i2d_PUBKEY(key, &der);
    const unsigned char *next = der;
    EVP_PKEY *public = length > 0 ? d2i_PUBKEY(NULL, &next, length) : NULL;

    if (public == NULL)
        failed("the public half");
    OPENSSL_free(der);
    return public;
}

static void print(const char *name, const unsigned char *octets, size_t length)
{
    size_t i;

    printf("%s=", name);
    for (i = 0; i < length; i++)
        printf("%02x", octets[i]);
    printf("\n");
}

static void show(EVP_PKEY *key)
{
    static const char *const texts[] = { "group", "encoding", "point-format", "field-type" };
    static const char *const strings[] = { "encoded-pub-key", "pub" };
    static const char *const numbers[] = { "qx", "qy" };
    unsigned char octets[256];
    char text[80];
    size_t length, i;
    BIGNUM *number;
    int value, result;

    printf("bits=%d\nsecurity-bits=%d\nsize=%d\nid=%d\n", EVP_PKEY_get_bits(key), EVP_PKEY_get_security_bits(key),
           EVP_PKEY_get_size(key), EVP_PKEY_get_id(key));
    for (i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (EVP_PKEY_get_utf8_string_param(key, texts[i], text, sizeof(text), NULL) == 1)
            printf("%s=%s\n", texts[i], text);
    for (i = 0; i < sizeof(strings) / sizeof(*strings); i++)
        if (EVP_PKEY_get_octet_string_param(key, strings[i], octets, sizeof(octets), &length) == 1)
            print(strings[i], octets, length);
    for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        number = NULL;
        if (EVP_PKEY_get_bn_param(key, numbers[i], &number) == 1)
            print(numbers[i], octets, BN_bn2bin(number, octets));
        BN_free(number);
    }
    if (EVP_PKEY_get_int_param(key, "decoded-from-explicit", &value) == 1)
        printf("explicit=%d\n", value);
    result = EVP_PKEY_get_default_digest_name(key, text, sizeof(text));
    printf("digest=%d %s\n", result, result > 0 ? text : "");
}

static void raw(EVP_PKEY *key, int length)
{
    unsigned char input[256], signature[256];
    size_t size = sizeof(signature);
    EVP_PKEY *public = public_half(key);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);

    memset(input, 0xa5, sizeof(input));
    if (EVP_PKEY_sign_init(context) <= 0 || EVP_PKEY_sign(context, signature, &size, input, (size_t)length) <= 0)
        failed("EVP_PKEY_sign");
    nothing_queued("EVP_PKEY_sign");
    EVP_PKEY_CTX_free(context);
    context = EVP_PKEY_CTX_new_from_pkey(NULL, public, NULL);
    if (EVP_PKEY_verify_init(context) <= 0
        || EVP_PKEY_verify(context, signature, size, input, (size_t)length) != 1)
        failed("EVP_PKEY_verify");
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(public);
}

static size_t sign_once(EVP_MD_CTX *context, unsigned char *signature, size_t capacity)
{
    size_t size = 0;

    if (EVP_DigestSign(context, NULL, &size, (const unsigned char *)"text", 4) <= 0)
        failed("EVP_DigestSign for the size");
    if (size > capacity)
        failed("a size beyond all buffers");
    if (EVP_DigestSign(context, signature, &size, (const unsigned char *)"text", 4) <= 0)
        failed("EVP_DigestSign");
    nothing_queued("EVP_DigestSign");
    return size;
}

static void sizes(EVP_PKEY *key)
{
    const char *digest = EVP_PKEY_is_a(key, "ED25519") ? NULL : "SHA256";
    unsigned char signature[256];
    size_t promised = 0, size;
    int i;

    for (i = 0; i < 8; i++) {
        EVP_MD_CTX *context = EVP_MD_CTX_new(), *copy = EVP_MD_CTX_new();

        if (EVP_DigestSignInit_ex(context, NULL, digest, NULL, NULL, key, NULL) <= 0)
            failed("EVP_DigestSignInit_ex");
        if (EVP_DigestSign(context, NULL, &promised, (const unsigned char *)"text", 4) <= 0
            || promised != (size_t)EVP_PKEY_get_size(key))
            failed("the promised size");
        if (EVP_MD_CTX_copy_ex(copy, context) <= 0 || sign_once(copy, signature, sizeof(signature)) > promised
            || sign_once(context, signature, sizeof(signature)) > promised)
            failed("a signature beyond its size");
        if (digest == NULL && EVP_DigestSignInit_ex(copy, NULL, "SHA256", NULL, NULL, key, NULL) > 0)
            failed("a digest for a key that takes none");
        ERR_clear_error();
        EVP_MD_CTX_free(copy);
        EVP_MD_CTX_free(context);
        context = EVP_MD_CTX_new();
        size = promised - 1;
        if (EVP_DigestSignInit_ex(context, NULL, digest, NULL, NULL, key, NULL) <= 0
            || EVP_DigestSign(context, signature, &size, (const unsigned char *)"text", 4) > 0)
            failed("a buffer that is too small was not refused");
        ERR_clear_error();
        EVP_MD_CTX_free(context);
    }
}

static void own(EVP_PKEY *key)
{
    unsigned char signature[256];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t size;

    if (EVP_DigestSignInit_ex(context, NULL, "SHA384", NULL, NULL, key, NULL) <= 0)
        failed("EVP_DigestSignInit_ex");
    size = sign_once(context, signature, sizeof(signature));
    EVP_MD_CTX_free(context);
    context = EVP_MD_CTX_new();
    if (EVP_DigestVerifyInit_ex(context, NULL, "SHA384", NULL, NULL, key, NULL) <= 0
        || EVP_DigestVerify(context, signature, size, (const unsigned char *)"text", 4) != 1)
        failed("EVP_DigestVerify");
    nothing_queued("EVP_DigestVerify");
    EVP_MD_CTX_free(context);
    context = EVP_MD_CTX_new();
    if (EVP_DigestVerifyInit_ex(context, NULL, "SHA384", NULL, NULL, key, NULL) <= 0
        || EVP_DigestVerify(context, signature, size, (const unsigned char *)"test", 4) == 1)
        failed("another text was verified");
    EVP_MD_CTX_free(context);
}

static void nonce(EVP_PKEY *key)
{
    unsigned int deterministic = 1;
    OSSL_PARAM params[] = { OSSL_PARAM_construct_uint("nonce-type", &deterministic), OSSL_PARAM_END };
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, key, params) <= 0)
        exit(4);
}

static void derive(EVP_PKEY *key, EVP_PKEY *peer, const char *kdf, size_t length)
{
    unsigned char secret[1024];
    unsigned char *ukm = OPENSSL_memdup("user keying material", 20);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL), *copy;

    if (EVP_PKEY_derive_init(context) <= 0)
        failed("EVP_PKEY_derive_init");
    if (EVP_PKEY_CTX_set_ecdh_cofactor_mode(context, 0) <= 0)
        failed("EVP_PKEY_CTX_set_ecdh_cofactor_mode");
    if (strcmp(kdf, "none") != 0) {
        if (EVP_PKEY_CTX_get_ecdh_kdf_type(context) != EVP_PKEY_ECDH_KDF_NONE
            || EVP_PKEY_CTX_set_ecdh_kdf_type(context, EVP_PKEY_ECDH_KDF_X9_63) <= 0
            || EVP_PKEY_CTX_set_ecdh_kdf_md(context, EVP_get_digestbyname(kdf)) <= 0
            || EVP_PKEY_CTX_set_ecdh_kdf_outlen(context, (int)length) <= 0
            || EVP_PKEY_CTX_set0_ecdh_kdf_ukm(context, ukm, 20) <= 0
            || EVP_PKEY_CTX_get_ecdh_kdf_type(context) != EVP_PKEY_ECDH_KDF_X9_63)
            failed("the key derivation function");
    }
    if (EVP_PKEY_derive_set_peer(context, peer) <= 0)
        failed("EVP_PKEY_derive_set_peer");
    copy = EVP_PKEY_CTX_dup(context);
    EVP_PKEY_CTX_free(context);
    length = 0;
    if (copy == NULL || EVP_PKEY_derive(copy, NULL, &length) <= 0 || length > sizeof(secret))
        failed("EVP_PKEY_derive for the size");
    if (EVP_PKEY_derive(copy, secret, &length) <= 0)
        failed("EVP_PKEY_derive");
    nothing_queued("EVP_PKEY_derive");
    print("secret", secret, length);
    EVP_PKEY_CTX_free(copy);
}

static int compare(EVP_PKEY *key, EVP_PKEY *other)
{
    if (EVP_PKEY_eq(key, other) == 1 && EVP_PKEY_eq(other, key) == 1 && EVP_PKEY_parameters_eq(key, other) == 1)
        return 0;
    return EVP_PKEY_parameters_eq(key, other) == 1 && EVP_PKEY_parameters_eq(other, key) == 1 ? 5 : 6;
}

static void copies(EVP_PKEY *key, EVP_PKEY *other)
{
    EVP_PKEY *first = EVP_PKEY_new(), *second;
    unsigned char point[200];
    size_t length = 0;

    if (first == NULL || EVP_PKEY_copy_parameters(first, key) <= 0)
        failed("EVP_PKEY_copy_parameters");
    second = EVP_PKEY_dup(first);
    if (second == NULL)
        failed("EVP_PKEY_dup");
    if (EVP_PKEY_get_octet_string_param(other, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, point, sizeof(point), &length) <= 0)
        failed("EVP_PKEY_get_octet_string_param");
    if (EVP_PKEY_set1_encoded_public_key(first, point, length) <= 0)
        failed("EVP_PKEY_set1_encoded_public_key");
    if (EVP_PKEY_eq(first, other) != 1)
        failed("the point that was set is not there");
    if (EVP_PKEY_parameters_eq(second, other) != 1)
        failed("the copy has lost its parameters");
    if (EVP_PKEY_get_octet_string_param(second, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point), &length) > 0)
        failed("the copy has the point");
    EVP_PKEY_free(first);
    EVP_PKEY_free(second);
}

static int typed(const char *path, const char *type)
{
    EVP_PKEY *key = NULL;
    BIO *file = BIO_new_file(path, "r");
    OSSL_DECODER_CTX *context = OSSL_DECODER_CTX_new_for_pkey(&key, "PEM", NULL, type, 0, NULL, NULL);

    if (file == NULL || context == NULL)
        failed("OSSL_DECODER_CTX_new_for_pkey");
    if (OSSL_DECODER_from_bio(context, file) != 1)
        return 7;
    if (!EVP_PKEY_is_a(key, type))
        failed("a key of another type");
    OSSL_DECODER_CTX_free(context);
    BIO_free(file);
    EVP_PKEY_free(key);
    return 0;
}

int main(int argc, char **argv)
{
    EVP_PKEY *key, *peer;
    int status = 0;

    if (argc < 3)
        return 2;
    if (strcmp(argv[1], "typed") == 0 && argc == 4)
        return typed(argv[2], argv[3]);
    key = read_key(argv[2], 1);
    if (strcmp(argv[1], "show") == 0) {
        show(key);
    } else if (strcmp(argv[1], "raw") == 0 && argc == 4) {
        raw(key, atoi(argv[3]));
    } else if (strcmp(argv[1], "sizes") == 0) {
        sizes(key);
    } else if (strcmp(argv[1], "own") == 0) {
        own(key);
    } else if (strcmp(argv[1], "nonce") == 0) {
        nonce(key);
    } else if (strcmp(argv[1], "derive") == 0 && argc == 6) {
        peer = read_key(argv[3], 0);
        derive(key, peer, argv[4], (size_t)atoi(argv[5]));
        EVP_PKEY_free(peer);
    } else if (strcmp(argv[1], "copies") == 0 && argc == 4) {
        peer = read_key(argv[3], 0);
        copies(key, peer);
        EVP_PKEY_free(peer);
    } else if ((strcmp(argv[1], "compare") == 0 || strcmp(argv[1], "same") == 0) && argc == 4) {
        peer = read_key(argv[3], strcmp(argv[1], "same") == 0);
        status = compare(key, peer);
        EVP_PKEY_free(peer);
    } else {
        status = 2;
    }
    EVP_PKEY_free(key);
    return status;
}
