#!/usr/bin/perl
# The linker's version script of a library, from OpenSSL's list of its functions. OpenSSL's own program for it, and the list for
# its modules, are left out of the crates. Called as OpenSSL's Makefile calls that program.
use strict;
use warnings;

my %option;
while (@ARGV) {
    my $name = shift;
    $option{$name} = shift;
}

if ($option{'--type'} eq 'dso') {
    print "{ global: OSSL_provider_init; bind_engine; v_check; local: *; };\n";
    exit;
}

# NAME ORDINAL VERSION EXIST:PLATFORMS:KIND:FEATURES
my %functions;
open my $list, '<', $option{'--ordinals'} or die "$option{'--ordinals'}: $!";
while (<$list>) {
    my ($name, undef, $version, $state) = split;
    push @{ $functions{$version} }, $name if defined $state && $state =~ /^EXIST:/;
}

# Each version has all that the one before it has: 3_0_9 comes before 3_1_0.
my $before = '';
for my $version (sort { sprintf('%03d%03d%03d', split /_/, $a) cmp sprintf('%03d%03d%03d', split /_/, $b) } keys %functions) {
    my $node = 'OPENSSL_' . $version =~ tr/_/./r;
    my $local = $before eq '' ? ' local: *;' : '';
    print "$node {\n global:\n", (map { "  $_;\n" } @{ $functions{$version} }), "$local\n}$before;\n";
    $before = " $node";
}
