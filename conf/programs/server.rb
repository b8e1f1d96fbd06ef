require "openssl"
require "socket"

context = OpenSSL::SSL::SSLContext.new
context.cert = OpenSSL::X509::Certificate.new(File.read("/etc/pki/server.pem"))
context.key = OpenSSL::PKey.read(File.read("/etc/pki/server.key"))
server = OpenSSL::SSL::SSLServer.new(TCPServer.new("127.0.0.1", 8443), context)
server.start_immediately = false
loop do
  Thread.new(server.accept) do |client|
    client.accept
    client.gets
    client.write("HTTP/1.0 200 OK\r\n\r\nserved\n")
    client.close
  rescue OpenSSL::SSL::SSLError, SystemCallError
    client.close
  end
end
