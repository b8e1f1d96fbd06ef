//! Dispatch tables (provider(7)), typed: a function of the wrong type for its number does not compile.

use std::mem::{size_of, transmute};

use super::bindings as c;
use super::later;

/// A function of the core's table as what its number says it is.
///
/// # Safety
/// `F` is the binding's type, `OSSL_FUNC_..._fn`, for the entry's number.
pub(super) unsafe fn upcall<F: Copy>(entry: &c::OSSL_DISPATCH) -> F {
    const { assert!(size_of::<F>() == size_of::<Option<unsafe extern "C" fn()>>()) };
    // SAFETY: both are nullable function pointers of one size, and the caller names the type that the number fixes.
    unsafe { std::mem::transmute_copy(&entry.function) }
}

/// The end of every dispatch table.
pub(super) const END: c::OSSL_DISPATCH = c::OSSL_DISPATCH { function_id: 0, function: None };

/// One constructor per number: it takes the binding's type for that number and nothing else.
macro_rules! constructors {
    ($from:ident: $($name:ident = $number:ident, $function:ident;)*) => {
        $(
            pub(super) const fn $name(function: $from::$function) -> c::OSSL_DISPATCH {
                c::OSSL_DISPATCH {
                    function_id: $from::$number,
                    // SAFETY: a nullable function pointer stays one; OpenSSL calls it as what its number says, which is
                    // the type that it came as.
                    function: unsafe { transmute::<$from::$function, Option<unsafe extern "C" fn()>>(function) },
                }
            }
        )*
    };
}

constructors! { c:
    provider_teardown = OSSL_FUNC_PROVIDER_TEARDOWN, OSSL_FUNC_provider_teardown_fn;
    provider_gettable_params = OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, OSSL_FUNC_provider_gettable_params_fn;
    provider_get_params = OSSL_FUNC_PROVIDER_GET_PARAMS, OSSL_FUNC_provider_get_params_fn;
    provider_query_operation = OSSL_FUNC_PROVIDER_QUERY_OPERATION, OSSL_FUNC_provider_query_operation_fn;
    provider_get_reason_strings = OSSL_FUNC_PROVIDER_GET_REASON_STRINGS, OSSL_FUNC_provider_get_reason_strings_fn;

    keymgmt_new = OSSL_FUNC_KEYMGMT_NEW, OSSL_FUNC_keymgmt_new_fn;
    keymgmt_gen_init = OSSL_FUNC_KEYMGMT_GEN_INIT, OSSL_FUNC_keymgmt_gen_init_fn;
    keymgmt_gen_set_params = OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS, OSSL_FUNC_keymgmt_gen_set_params_fn;
    keymgmt_gen_settable_params = OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS, OSSL_FUNC_keymgmt_gen_settable_params_fn;
    keymgmt_gen = OSSL_FUNC_KEYMGMT_GEN, OSSL_FUNC_keymgmt_gen_fn;
    keymgmt_gen_cleanup = OSSL_FUNC_KEYMGMT_GEN_CLEANUP, OSSL_FUNC_keymgmt_gen_cleanup_fn;
    keymgmt_import = OSSL_FUNC_KEYMGMT_IMPORT, OSSL_FUNC_keymgmt_import_fn;
    keymgmt_import_types = OSSL_FUNC_KEYMGMT_IMPORT_TYPES, OSSL_FUNC_keymgmt_import_types_fn;
    keymgmt_load = OSSL_FUNC_KEYMGMT_LOAD, OSSL_FUNC_keymgmt_load_fn;
    keymgmt_free = OSSL_FUNC_KEYMGMT_FREE, OSSL_FUNC_keymgmt_free_fn;
    keymgmt_dup = OSSL_FUNC_KEYMGMT_DUP, OSSL_FUNC_keymgmt_dup_fn;
    keymgmt_get_params = OSSL_FUNC_KEYMGMT_GET_PARAMS, OSSL_FUNC_keymgmt_get_params_fn;
    keymgmt_gettable_params = OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, OSSL_FUNC_keymgmt_gettable_params_fn;
    keymgmt_set_params = OSSL_FUNC_KEYMGMT_SET_PARAMS, OSSL_FUNC_keymgmt_set_params_fn;
    keymgmt_settable_params = OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS, OSSL_FUNC_keymgmt_settable_params_fn;
    keymgmt_query_operation_name = OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, OSSL_FUNC_keymgmt_query_operation_name_fn;
    keymgmt_has = OSSL_FUNC_KEYMGMT_HAS, OSSL_FUNC_keymgmt_has_fn;
    keymgmt_match = OSSL_FUNC_KEYMGMT_MATCH, OSSL_FUNC_keymgmt_match_fn;
    keymgmt_validate = OSSL_FUNC_KEYMGMT_VALIDATE, OSSL_FUNC_keymgmt_validate_fn;
    keymgmt_export = OSSL_FUNC_KEYMGMT_EXPORT, OSSL_FUNC_keymgmt_export_fn;
    keymgmt_export_types = OSSL_FUNC_KEYMGMT_EXPORT_TYPES, OSSL_FUNC_keymgmt_export_types_fn;

    signature_newctx = OSSL_FUNC_SIGNATURE_NEWCTX, OSSL_FUNC_signature_newctx_fn;
    signature_freectx = OSSL_FUNC_SIGNATURE_FREECTX, OSSL_FUNC_signature_freectx_fn;
    signature_dupctx = OSSL_FUNC_SIGNATURE_DUPCTX, OSSL_FUNC_signature_dupctx_fn;
    signature_sign_init = OSSL_FUNC_SIGNATURE_SIGN_INIT, OSSL_FUNC_signature_sign_init_fn;
    signature_sign = OSSL_FUNC_SIGNATURE_SIGN, OSSL_FUNC_signature_sign_fn;
    signature_digest_sign_init = OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, OSSL_FUNC_signature_digest_sign_init_fn;
    signature_digest_sign_update = OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, OSSL_FUNC_signature_digest_sign_update_fn;
    signature_digest_sign_final = OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, OSSL_FUNC_signature_digest_sign_final_fn;
    signature_digest_sign = OSSL_FUNC_SIGNATURE_DIGEST_SIGN, OSSL_FUNC_signature_digest_sign_fn;
    signature_verify_init = OSSL_FUNC_SIGNATURE_VERIFY_INIT, OSSL_FUNC_signature_verify_init_fn;
    signature_verify = OSSL_FUNC_SIGNATURE_VERIFY, OSSL_FUNC_signature_verify_fn;
    signature_verify_recover_init = OSSL_FUNC_SIGNATURE_VERIFY_RECOVER_INIT, OSSL_FUNC_signature_verify_recover_init_fn;
    signature_verify_recover = OSSL_FUNC_SIGNATURE_VERIFY_RECOVER, OSSL_FUNC_signature_verify_recover_fn;
    signature_digest_verify_init = OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_INIT, OSSL_FUNC_signature_digest_verify_init_fn;
    signature_digest_verify_update = OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_UPDATE, OSSL_FUNC_signature_digest_verify_update_fn;
    signature_digest_verify_final = OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_FINAL, OSSL_FUNC_signature_digest_verify_final_fn;
    signature_digest_verify = OSSL_FUNC_SIGNATURE_DIGEST_VERIFY, OSSL_FUNC_signature_digest_verify_fn;
    signature_get_ctx_params = OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, OSSL_FUNC_signature_get_ctx_params_fn;
    signature_gettable_ctx_params = OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, OSSL_FUNC_signature_gettable_ctx_params_fn;
    signature_set_ctx_params = OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, OSSL_FUNC_signature_set_ctx_params_fn;
    signature_settable_ctx_params = OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, OSSL_FUNC_signature_settable_ctx_params_fn;

    asym_cipher_newctx = OSSL_FUNC_ASYM_CIPHER_NEWCTX, OSSL_FUNC_asym_cipher_newctx_fn;
    asym_cipher_freectx = OSSL_FUNC_ASYM_CIPHER_FREECTX, OSSL_FUNC_asym_cipher_freectx_fn;
    asym_cipher_dupctx = OSSL_FUNC_ASYM_CIPHER_DUPCTX, OSSL_FUNC_asym_cipher_dupctx_fn;
    asym_cipher_encrypt_init = OSSL_FUNC_ASYM_CIPHER_ENCRYPT_INIT, OSSL_FUNC_asym_cipher_encrypt_init_fn;
    asym_cipher_encrypt = OSSL_FUNC_ASYM_CIPHER_ENCRYPT, OSSL_FUNC_asym_cipher_encrypt_fn;
    asym_cipher_decrypt_init = OSSL_FUNC_ASYM_CIPHER_DECRYPT_INIT, OSSL_FUNC_asym_cipher_decrypt_init_fn;
    asym_cipher_decrypt = OSSL_FUNC_ASYM_CIPHER_DECRYPT, OSSL_FUNC_asym_cipher_decrypt_fn;
    asym_cipher_get_ctx_params = OSSL_FUNC_ASYM_CIPHER_GET_CTX_PARAMS, OSSL_FUNC_asym_cipher_get_ctx_params_fn;
    asym_cipher_gettable_ctx_params = OSSL_FUNC_ASYM_CIPHER_GETTABLE_CTX_PARAMS, OSSL_FUNC_asym_cipher_gettable_ctx_params_fn;
    asym_cipher_set_ctx_params = OSSL_FUNC_ASYM_CIPHER_SET_CTX_PARAMS, OSSL_FUNC_asym_cipher_set_ctx_params_fn;
    asym_cipher_settable_ctx_params = OSSL_FUNC_ASYM_CIPHER_SETTABLE_CTX_PARAMS, OSSL_FUNC_asym_cipher_settable_ctx_params_fn;

    encoder_newctx = OSSL_FUNC_ENCODER_NEWCTX, OSSL_FUNC_encoder_newctx_fn;
    encoder_freectx = OSSL_FUNC_ENCODER_FREECTX, OSSL_FUNC_encoder_freectx_fn;
    encoder_set_ctx_params = OSSL_FUNC_ENCODER_SET_CTX_PARAMS, OSSL_FUNC_encoder_set_ctx_params_fn;
    encoder_settable_ctx_params = OSSL_FUNC_ENCODER_SETTABLE_CTX_PARAMS, OSSL_FUNC_encoder_settable_ctx_params_fn;
    encoder_does_selection = OSSL_FUNC_ENCODER_DOES_SELECTION, OSSL_FUNC_encoder_does_selection_fn;
    encoder_encode = OSSL_FUNC_ENCODER_ENCODE, OSSL_FUNC_encoder_encode_fn;
    keyexch_newctx = OSSL_FUNC_KEYEXCH_NEWCTX, OSSL_FUNC_keyexch_newctx_fn;
    keyexch_freectx = OSSL_FUNC_KEYEXCH_FREECTX, OSSL_FUNC_keyexch_freectx_fn;
    keyexch_dupctx = OSSL_FUNC_KEYEXCH_DUPCTX, OSSL_FUNC_keyexch_dupctx_fn;
    keyexch_init = OSSL_FUNC_KEYEXCH_INIT, OSSL_FUNC_keyexch_init_fn;
    keyexch_set_peer = OSSL_FUNC_KEYEXCH_SET_PEER, OSSL_FUNC_keyexch_set_peer_fn;
    keyexch_derive = OSSL_FUNC_KEYEXCH_DERIVE, OSSL_FUNC_keyexch_derive_fn;
    keyexch_get_ctx_params = OSSL_FUNC_KEYEXCH_GET_CTX_PARAMS, OSSL_FUNC_keyexch_get_ctx_params_fn;
    keyexch_gettable_ctx_params = OSSL_FUNC_KEYEXCH_GETTABLE_CTX_PARAMS, OSSL_FUNC_keyexch_gettable_ctx_params_fn;
    keyexch_set_ctx_params = OSSL_FUNC_KEYEXCH_SET_CTX_PARAMS, OSSL_FUNC_keyexch_set_ctx_params_fn;
    keyexch_settable_ctx_params = OSSL_FUNC_KEYEXCH_SETTABLE_CTX_PARAMS, OSSL_FUNC_keyexch_settable_ctx_params_fn;

    decoder_newctx = OSSL_FUNC_DECODER_NEWCTX, OSSL_FUNC_decoder_newctx_fn;
    decoder_freectx = OSSL_FUNC_DECODER_FREECTX, OSSL_FUNC_decoder_freectx_fn;
    decoder_decode = OSSL_FUNC_DECODER_DECODE, OSSL_FUNC_decoder_decode_fn;

    store_open = OSSL_FUNC_STORE_OPEN, OSSL_FUNC_store_open_fn;
    store_settable_ctx_params = OSSL_FUNC_STORE_SETTABLE_CTX_PARAMS, OSSL_FUNC_store_settable_ctx_params_fn;
    store_set_ctx_params = OSSL_FUNC_STORE_SET_CTX_PARAMS, OSSL_FUNC_store_set_ctx_params_fn;
    store_load = OSSL_FUNC_STORE_LOAD, OSSL_FUNC_store_load_fn;
    store_eof = OSSL_FUNC_STORE_EOF, OSSL_FUNC_store_eof_fn;
    store_close = OSSL_FUNC_STORE_CLOSE, OSSL_FUNC_store_close_fn;
}

constructors! { later:
    signature_query_key_types = OSSL_FUNC_SIGNATURE_QUERY_KEY_TYPES, OSSL_FUNC_signature_query_key_types_fn;
    signature_sign_message_init = OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_INIT, OSSL_FUNC_signature_sign_message_init_fn;
    signature_sign_message_update = OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_UPDATE, OSSL_FUNC_signature_sign_message_update_fn;
    signature_sign_message_final = OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_FINAL, OSSL_FUNC_signature_sign_message_final_fn;
    signature_verify_message_init = OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_INIT, OSSL_FUNC_signature_verify_message_init_fn;
    signature_verify_message_update = OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_UPDATE, OSSL_FUNC_signature_verify_message_update_fn;
    signature_verify_message_final = OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_FINAL, OSSL_FUNC_signature_verify_message_final_fn;
}
