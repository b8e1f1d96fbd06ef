# For Ruby: RUBYOPT=-r/etc/hsmkey/hsmkey.rb in the environment of the program.
#
# Ruby's openssl library reads a key's numbers, and whether it is private, from a legacy RSA or EC object. A key of an OpenSSL provider has no
# such object, and the library reads it without a look. Here the key itself is asked first: one in an HSM refuses to be written. The numbers of
# such a key are those of its public half, and its PEM is its key file.
require "openssl"

module HsmKey
  def private?
    in_hsm? || super
  end

  def to_der
    in_hsm? ? private_to_der : super
  end

  %i[export to_pem to_s].each do |name|
    define_method(name) { |*arguments| in_hsm? ? private_to_pem(*arguments) : super(*arguments) }
  end

  # Methods that answer for the public half, and methods that have the same answer for every key in an HSM.
  def self.with(of_the_public_half, fixed)
    Module.new do
      include HsmKey
      of_the_public_half.each do |name|
        define_method(name) do |*arguments|
          in_hsm? ? OpenSSL::PKey.read(public_to_der).public_send(name, *arguments) : super(*arguments)
        end
      end
      fixed.each { |name, answer| define_method(name) { in_hsm? ? answer : super() } }
    end
  end

  private

  def in_hsm?
    private_to_der
    false
  rescue OpenSSL::PKey::PKeyError => error
    error.message.include?("stays in the HSM")
  end
end

OpenSSL::PKey::RSA.prepend(
  HsmKey.with(%i[n e params public_encrypt public_decrypt], %i[d p q dmp1 dmq1 iqmp].to_h { |name| [name, nil] })
)
OpenSSL::PKey::EC.prepend(
  HsmKey.with(%i[group public_key], { private_key: nil, private_key?: true, public_key?: true, public?: true })
)
