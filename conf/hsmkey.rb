# For Ruby: RUBYOPT=-r/etc/hsmkey/hsmkey.rb in the environment of the program.
#
# Before it signs, Ruby's openssl library asks a legacy RSA or EC object whether the key is private. A key of an OpenSSL provider has no such
# object, and the library reads it without a look. Here the key itself is asked first: one in an HSM refuses to be written.
require "openssl"

module HsmKey
  def private?
    private_to_der
    super
  rescue OpenSSL::PKey::PKeyError => error
    error.message.include?("stays in the HSM") || super
  end
end

OpenSSL::PKey::RSA.prepend(HsmKey)
OpenSSL::PKey::EC.prepend(HsmKey)
