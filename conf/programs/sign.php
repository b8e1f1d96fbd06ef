<?php
$key = openssl_pkey_get_private("file:///etc/pki/server.key");
$document = file_get_contents("document");
openssl_sign($document, $sha1, $key, OPENSSL_ALGO_SHA1) or exit(1);
openssl_sign($document, $sha256, $key, OPENSSL_ALGO_SHA256) or exit(1);
file_put_contents("sha1.sig", $sha1);
file_put_contents("sha256.sig", $sha256);

$request = openssl_csr_new(["commonName" => "localhost"], $key, ["digest_alg" => "sha256"]);
openssl_csr_export_to_file($request, "request.pem") or exit(1);
$certificate = openssl_csr_sign($request, null, $key, 30, ["digest_alg" => "sha256"]);
openssl_x509_export_to_file($certificate, "signed.pem") or exit(1);
