//! A reference key file and no hsmkey: each application says that it cannot, and nothing is signed with the file's numbers.

use crate::site::{installed, is_root, without};
use crate::{apache, haproxy, languages, nginx, refused, signers, stunnel, tls_client};

#[test]
fn no_server_makes_a_handshake() {
    without("Python", "python3", |site| languages::refuses(site, "python3", "programs/server.py"));
    if !is_root("nginx") {
        return;
    }
    without("nginx", "nginx", nginx::refuses);
    if let Some(program) =
        ["/usr/sbin/apache2", "/usr/sbin/httpd"].into_iter().find(|path| installed(path).is_some())
    {
        without("Apache event", program, |site| apache::refuses(site, program));
    }
    without("HAProxy", "haproxy", haproxy::refuses);
    without("stunnel", "stunnel4", stunnel::refuses);
}

#[test]
fn no_program_writes_a_signature() {
    without("PHP", "php", |site| languages::signs_nothing(site, "php", "programs/sign.php"));
    without("Ruby", "ruby", |site| languages::signs_nothing(site, "ruby", "programs/sign.rb"));
    without("Node.js", "node", |site| languages::signs_nothing(site, "node", "programs/sign.js"));
    without("curl", "curl", tls_client::refuses);
    without("sbsign", "sbsign", signers::sbsign_refuses);
    without("osslsigncode", "osslsigncode", signers::osslsigncode_refuses);
    without("xmlsec1", "xmlsec1", refused::xmlsec1_refuses);
    without("OpenDKIM", "opendkim-testmsg", refused::opendkim_refuses);
}
