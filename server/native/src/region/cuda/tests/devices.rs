//! Drivers: what is measured, what is missing, and that the fake one sees what the real one would punish.

use super::*;
use crate::region::Access;
use crate::region::cuda::bench::bench_map;
use crate::region::cuda::library::Library;

#[test]
fn every_call_is_measured_and_all_memory_comes_back() {
    let driver = fake(|_| {});
    let rows = bench_map(&(Arc::clone(&driver) as Arc<dyn Driver>), 2 * PAGE, 8).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let expected = "create map set_access_run set_access zero_page copy_page alias_map alias_set_access_run alias_unmap unmap release";
    assert_eq!(names.join(" "), expected);
    assert!(rows.iter().all(|row| row.1 > 0.0));
    for calls in 0..30 {
        driver.fail_in(Some(calls));
        let _ = bench_map(&(Arc::clone(&driver) as Arc<dyn Driver>), PAGE, 8);
    }
    assert_eq!(
        (driver.violations(), driver.alive()),
        (Vec::new(), [0, 0, 0, 0])
    );
    let refused = bench_map(&(driver as Arc<dyn Driver>), PAGE + 1, 8).unwrap_err();
    assert!(refused.to_string().contains("page_bytes is 4097"));
}

#[test]
fn a_machine_without_the_driver_is_told_what_is_missing() {
    // With a driver, no machine has so many devices.
    let refused = Library::open(u32::MAX).err().unwrap().to_string();
    let named = refused.contains("libcuda.so.1") || refused.contains("device is 4294967295");
    assert!(named || refused.contains("cuInit"), "{refused}");
}

/// The fake driver must see what the real one would punish.
#[test]
fn the_fake_driver_refuses_what_breaks_a_rule() {
    let driver = fake(|_| {});
    assert!(driver.create(PAGE).is_err(), "no context");
    driver.push().unwrap();
    let (range, page) = (
        driver.reserve(4 * PAGE, PAGE).unwrap(),
        driver.create(2 * PAGE).unwrap(),
    );
    assert!(driver.create(PAGE + 1).is_err(), "granularity");
    assert!(driver.map(range + 64, 2 * PAGE, page).is_err(), "alignment");
    assert!(driver.map(range, PAGE, page).is_err(), "part of a handle");
    assert!(
        driver.map(range + 3 * PAGE, 2 * PAGE, page).is_err(),
        "outside"
    );
    driver.map(range, 2 * PAGE, page).unwrap();
    assert!(
        driver.map(range + PAGE, 2 * PAGE, page).is_err(),
        "mapped already"
    );
    assert!(driver.zero(range, PAGE, 0).is_err(), "no access");
    assert!(
        driver.set_access(range, PAGE, Access::ReadWrite).is_err(),
        "part of a mapping"
    );
    assert!(
        driver
            .set_access(range, 4 * PAGE, Access::ReadWrite)
            .is_err(),
        "unmapped"
    );
    driver
        .set_access(range, 2 * PAGE, Access::ReadOnly)
        .unwrap();
    assert!(driver.zero(range, PAGE, 0).is_err(), "read-only");
    driver.launch(3, vec![(range + PAGE, 8)]);
    assert!(driver.unmap(range, 2 * PAGE).is_err(), "a kernel runs");
    let event = driver.create_event().unwrap();
    driver.record(event, 4).unwrap();
    assert!(driver.is_done(event).unwrap(), "another stream");
    driver.record(event, 3).unwrap();
    assert!(!driver.is_done(event).unwrap());
    driver.wait(event).unwrap();
    assert!(driver.unmap(range, PAGE).is_err(), "part of a mapping");
    assert!(driver.release(page).is_err(), "still mapped");
    assert!(driver.free(range, 4 * PAGE).is_err(), "still mapped");
    driver.unmap(range, 2 * PAGE).unwrap();
    driver.release(page).unwrap();
    assert!(driver.map(range, 2 * PAGE, page).is_err(), "released");
    driver.free(range, 4 * PAGE).unwrap();
    driver.pop();
    assert_eq!(driver.violations().len(), 15);
}
