/* What a provider needs of OpenSSL's headers; main.rs picks the names out of them. */
#include <openssl/opensslv.h>
#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/core_object.h>
#include <openssl/params.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/store.h>
