//! Makes the C header from src/capi/. Without the feature `capi` there is nothing to do.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "capi")]
    header::write();
}

#[cfg(feature = "capi")]
mod header {
    use std::path::Path;
    use std::{env, fs};

    use cbindgen::{Builder, Config, Language, Style};

    /// In the order in which the header has them.
    const SOURCES: [&str; 15] = [
        "status",
        "address",
        "ipvs",
        "control",
        "connections",
        "vip",
        "arp",
        "node",
        "report",
        "marks",
        "monitor",
        "local",
        "classifier",
        "driver",
        "supervisor",
    ];
    const HANDLES: [&str; 10] = [
        "lvs_ipvs",
        "lvs_vips",
        "lvs_arp",
        "lvs_node",
        "lvs_marks",
        "lvs_monitor",
        "lvs_local_marks",
        "lvs_classifier",
        "lvs_driver",
        "lvs_supervisor",
    ];
    const PREAMBLE: &str = "src/capi/preamble.h";
    const NOTE: &str = "/* Made from src/capi/ by cbindgen: `make header` brings it up to date. */";

    /// Writes it below OUT_DIR, where cargo-c looks for headers too. A test compares it with
    /// include/lvs_dr.h.
    pub fn write() {
        println!("cargo:rerun-if-changed=src/capi");
        let part = |name: &str| env::var(format!("CARGO_PKG_VERSION_{name}")).expect("set by cargo");
        let [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"].map(part);
        let version = format!(
            "/* The version of this header; lvs_version() has that of the library. */\n\
             #define LVS_VERSION \"{major}.{minor}.{patch}\"\n#define LVS_VERSION_MAJOR {major}\n\
             #define LVS_VERSION_MINOR {minor}\n#define LVS_VERSION_PATCH {patch}"
        );
        let preamble = fs::read_to_string(PREAMBLE).expect(PREAMBLE);
        let mut config = Config {
            header: Some(preamble.trim_end().to_owned()),
            autogen_warning: Some(NOTE.to_owned()),
            include_guard: Some("LVS_DR_H".to_owned()),
            sys_includes: ["stddef.h", "stdint.h", "sys/socket.h"].map(str::to_owned).into(),
            no_includes: true,
            after_includes: Some(format!("\n{version}")),
            language: Language::C,
            style: Style::Both,
            cpp_compat: true,
            usize_is_size_t: true,
            line_length: 100,
            tab_width: 4,
            ..Config::default()
        };
        // These are not in the sources given here: their names are printed as they are.
        config.export.rename.insert("Text".to_owned(), "const char*".to_owned());
        for name in ["sockaddr", "sockaddr_storage"] {
            config.export.rename.insert(name.to_owned(), format!("struct {name}"));
        }

        let mut builder = Builder::new().with_config(config);
        for source in SOURCES {
            builder = builder.with_src(format!("src/capi/{source}.rs"));
        }
        let bindings = builder.generate().expect("src/capi/ is what cbindgen understands");
        let directory = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("capi/include");
        fs::create_dir_all(&directory).expect("OUT_DIR can be written to");
        let mut header = Vec::new();
        bindings.write(&mut header);
        let mut header = String::from_utf8(header).expect("sources are UTF-8").replace("const char* ", "const char *");
        // Not a comment in C90.
        header = header.replace("#endif  // __cplusplus", "#endif").replace("#endif // __cplusplus", "#endif");
        // `Handle` is not in the sources either.
        for name in HANDLES {
            header = header.replace(&format!("Handle<{name}> "), &format!("struct {name} *"));
        }
        fs::write(directory.join("lvs_dr.h"), header).expect("OUT_DIR can be written to");
    }
}
