require "openssl"

key = OpenSSL::PKey.read(File.read("/etc/pki/server.key"))
document = File.binread("document")
File.binwrite("sha1.sig", key.sign("SHA1", document))
File.binwrite("sha256.sig", key.sign("SHA256", document))
